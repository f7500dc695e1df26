"""When a model should not answer, chosen on the validation images: thresholds for sets of classes, and for outliers.

What they do on the test images is told in the metrics (`medinfer.evaluation.abstention`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.metrics import Labels
from medinfer.spec import Abstention, Conformal, Outliers
from medtrain.recipe import Decisions

Array = npt.NDArray[Any]


def choose_limits(labels: Labels, probabilities: Array, scores: Array, wanted: Decisions) -> Abstention | None:
    """Return the contract's limits; None if no coverage is wished.

    What they promise is of images drawn one by one: where images share patients, fewer of them say less.

    Args:
        labels: Index of the true class, int (n,), of the validation images.
        probabilities: As the contract calibrates them, (n, classes).
        scores: How unlike the training's each image is, (n,).
        wanted: The recipe's.
    """
    if not wanted.coverage:
        return None
    classes = range(probabilities.shape[1])
    # To float32, as a deployed file computes them: what it cannot tell apart no threshold may part.
    true = probabilities[np.arange(len(labels)), labels].astype(np.float32).astype(np.float64)
    if wanted.coverage_per_class:
        thresholds = [least_probability(true[labels == i], wanted.coverage) for i in classes]
    else:
        thresholds = [least_probability(true, wanted.coverage)] * len(classes)
    return Abstention(
        conformal=Conformal(
            coverage=wanted.coverage,
            per_class=wanted.coverage_per_class,
            thresholds=tuple(thresholds),
            images=len(labels),
        ),
        outliers=Outliers(
            threshold=highest_score(scores, wanted.in_distribution), in_distribution=wanted.in_distribution
        ),
    )


def least_probability(true: Array, coverage: float) -> float:
    """Return the largest threshold that the next image's probability of its true class reaches as often as wished.

    That is the k-th smallest of n, k = floor((n + 1) (1 - coverage)), and 0 where images are too few to say (Vovk, V.
    et al. (2005): Algorithmic learning in a random world). Halfway to the next smaller one rounding decides nothing.

    Args:
        true: The probability of each image's true class, float (n,).
        coverage: Between 0 and 1.
    """
    k = math.floor((len(true) + 1) * (1 - coverage) + 1e-9)
    return _below(true, k) if k else 0.0


def highest_score(scores: Array, in_distribution: float) -> float:
    """Return the smallest threshold that the next image's score stays within as often as wished.

    Where images are too few to say it, the largest of theirs, and no more can be promised.
    """
    k = max(1, math.floor((len(scores) + 1) * (1 - in_distribution) + 1e-9))
    return -_below(-scores, k)


def _below(values: Array, k: int) -> float:
    """Return the middle between the k-th smallest value and the next smaller; a thousandth less if there is none."""
    kth = float(np.sort(values)[k - 1])
    smaller = values[values < kth]
    return (kth + float(smaller.max())) / 2 if len(smaller) else kth - abs(kth) / 1000
