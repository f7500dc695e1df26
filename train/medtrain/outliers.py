"""Where the features of training images lie: what an image unlike all of them is recognised by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medtrain.head import watched
from medtrain.network import EVALUATION_BATCH, Classifier, NetworkConfig, predict_logits

# More images or directions recognised no more: tried on three reference tasks.
IMAGES, DIRECTIONS = 1000, 64
# A narrow network's features fill their space; directions must be left over to tell outliers by.
SHARE = 4


def learn_outliers(classifier: Classifier, config: NetworkConfig, images: npt.NDArray[np.uint8]) -> NetworkConfig:
    """Have a classifier's head remember training images; returns its configuration with that.

    Args:
        classifier: One that `build_network` built.
        config: Its configuration.
        images: Of the training set, uint8 (n, H, W, C); at most 1,000, spread over them, are looked at.
    """
    head = classifier.head
    assert head is not None  # every network that medtrain builds has one
    chosen = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int))
    seen: list[Tensor] = []
    with watched(head, seen):
        for part in np.array_split(chosen, -(-len(chosen) // EVALUATION_BATCH)):
            predict_logits(classifier, images[part])  # they may lie on a disk, more than memory holds
    features = torch.cat([batch.detach().float().cpu() for batch in seen])
    center, basis = principal_directions(features, min(DIRECTIONS, features.shape[1] // SHARE, len(features) - 1))
    device = next(classifier.parameters()).device
    head.remember(center.to(device), basis.to(device))
    return replace(config, head=replace(config.head, directions=basis.shape[1]))


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean, float (n,), and the first `count` principal directions, float (n, count), at least one."""
    center = features.mean(dim=0)
    # In float64, and by the smaller side's own vectors: the same bits for the same images.
    _, _, directions = torch.linalg.svd((features - center).double(), full_matrices=False)
    return center, directions[: max(1, count)].T.float().contiguous()
