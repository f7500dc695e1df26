"""What stands behind the features: the map to the logits, and the memory of what training images look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medinfer.schema import Schema, require, schema
from medtrain.recipe import HeadKind

# The largest number that a checkpoint may name: a hostile one must not take all memory.
LARGEST = 4096
HUNDREDTH, TINY = 0.01, 1e-30


@schema
class HeadConfig(Schema):
    """What stands behind the pooled features.

    `directions` counts the directions in which the features of training images vary, once they are known; 0 before.
    """

    classes: int
    dropout: float = 0.0
    kind: HeadKind = "linear"
    directions: int = 0

    def check(self) -> None:
        """Check the range."""
        require(0 <= self.directions <= LARGEST, "directions", f"{self.directions} is not within 0..{LARGEST}")


class Head(nn.Sequential):
    """Features (batch, n) -> logits: what is learnt afresh for every task.

    `linear` is dropout and one linear map; `batchnorm-256` is BatchNorm, 256 units, ReLU, dropout, the linear map.
    """

    center: Tensor
    basis: Tensor

    def __init__(self, features: int, config: HeadConfig) -> None:
        layers: list[nn.Module] = []
        self.features, self.directions = features, config.directions
        if config.kind == "batchnorm-256":
            layers = [nn.BatchNorm1d(features), nn.Linear(features, 256), nn.ReLU(inplace=True)]
            features = 256
        super().__init__(*layers, nn.Dropout(config.dropout), nn.Linear(features, config.classes))
        if self.directions:
            self.remember(torch.zeros(self.features), torch.zeros(self.features, self.directions))

    def remember(self, center: Tensor, basis: Tensor) -> None:
        """Keep where the features of training images lie: their mean (n,), and orthonormal directions (n, k)."""
        self.directions = basis.shape[1]
        self.register_buffer("center", center)
        self.register_buffer("basis", basis)

    def residual(self, features: Tensor) -> Tensor:
        """Return the share of the features, float (batch,), that lies outside the directions of training images.

        After Wang, H. et al. (2022): ViM: Out-of-distribution with virtual-logit matching, eq. 2, squared, and as a
        share of the features' own square.
        """
        apart = features - self.center
        outside = apart - (apart @ self.basis) @ self.basis.T
        # Features of nothing at all, of a black picture, are no division by 0.
        size = (features * features).sum(1) + HUNDREDTH * (self.center * self.center).sum()
        return (outside * outside).sum(1) / (size + TINY)


@contextmanager
def watched(head: Head, seen: list[Tensor]) -> Iterator[None]:
    """Keep what comes into a head."""
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield
    finally:
        hook.remove()
