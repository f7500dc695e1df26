"""Class activation maps: where in the picture the logits of a network with global pooling come from.

Such a network ends in logit_k = mean over places of sum_c w_kc f_c(place) + b_k, so that the inner sum at each place is
its share of the logit: exact, and no gradient is needed (Zhou, B. et al. (2016): Learning deep features for
discriminative localization, eq. 1 and 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medinfer.errors import UsageError
from medinfer.spec import InputSpec

# Of the features' largest value: what float32 leaves of a mean over a few dozen places.
ROUNDING = 1e-4


class Pooled(NamedTuple):
    """The end of a network: a module whose output is averaged over all places, and the linear layer after that."""

    maps: nn.Module
    linear: nn.Linear

    def heatmap(self, maps: Tensor) -> Tensor:
        """Return float (batch, classes, h, w) for the output of `maps`: its mean is the logit less its bias."""
        return nn.functional.conv2d(maps, self.linear.weight[:, :, None, None])


def find_pooled(classifier: nn.Module, spec: InputSpec) -> Pooled:
    """Return the end of a classifier, found by what its modules give for a picture of noise.

    Raises:
        UsageError: Its logits are no linear function of averages over the picture.
    """
    noise = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (2, spec.channels, spec.height, spec.width), generator=noise, dtype=torch.uint8)
    seen: list[tuple[nn.Module, Tensor]] = []
    into: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Linear):
            into.append((module, inputs[0], output))
        elif isinstance(output, Tensor) and output.ndim == 4:
            seen.append((module, output))

    hooks = [module.register_forward_hook(watch) for module in classifier.modules()]
    try:
        with torch.inference_mode():
            logits = classifier(picture)
    finally:
        for hook in hooks:
            hook.remove()
    if not into or into[-1][2].shape != logits.shape or not torch.equal(into[-1][2], logits):
        raise _refusal("its last layer is not linear")
    linear, features, _ = into[-1]
    if sum(module is linear for module, _, _ in into) > 1 or features.ndim != 2:
        raise _refusal("its last layer is used more than once")
    tolerance = ROUNDING * float(features.abs().max())
    for module, maps in reversed(seen):
        places = maps.shape[2] * maps.shape[3]
        if places > 1 and maps.shape[1] == features.shape[1]:
            if torch.allclose(maps.mean((2, 3)), features, rtol=0, atol=tolerance):
                return Pooled(module, linear)
            break
    raise _refusal("what goes into its last layer is not the average of feature maps")


def _refusal(reason: str) -> UsageError:
    hint = "Train with the linear head and average pooling: network.head and network.pool in the recipe."
    return UsageError(f"--heatmap: {reason}", hint=hint)


def heatmaps(classifier: nn.Module, spec: InputSpec, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what torch finds for tensors uint8 (n, H, W, C): float32 (n, classes, h, w)."""
    pooled, seen = find_pooled(classifier, spec), list[Tensor]()
    with watched_output(pooled.maps, seen), torch.inference_mode():
        classifier(torch.from_numpy(tensors).permute(0, 3, 1, 2))
        return pooled.heatmap(seen[0]).numpy()


@contextmanager
def watched_output(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Keep what comes out of a module."""
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        yield
    finally:
        hook.remove()
