"""What is decided on the validation images once the weights are found: a temperature, and thresholds.

Both travel in the contract. How good they are is told of the test images, which had no part in choosing them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from medinfer import evaluation
from medinfer.metrics import Labels
from medinfer.spec import OperatingPoint, Target
from medtrain.recipe import Decisions

Array = npt.NDArray[Any]

# Beyond these the validation images say nothing more: probabilities are all but certain, or all but equal.
COLDEST, HOTTEST = 0.05, 20.0


def fit_temperature(logits: npt.NDArray[np.float32], labels: Labels) -> float:
    """Return the temperature by which logits become the most likely probabilities, to four digits.

    Guo, C. et al. (2017): On calibration of modern neural networks. The target of an image of a class with n images is
    not 1 but (n + 1) / (n + 2), the rest spread over the other classes (Platt, J. (1999): Probabilistic outputs for
    support vector machines): otherwise a few images without a mistake would ask for certainty.

    Args:
        logits: float32 (n, classes), of the validation images.
        labels: int (n,).
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    sure = ((counts + 1) / (counts + 2))[labels][:, None]
    truth = np.eye(logits.shape[1])[labels]
    smoothed = truth * sure + (1 - truth) * (1 - sure) / (logits.shape[1] - 1)
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        largest = scaled.max(axis=1, keepdims=True)
        logs = scaled - largest - np.log(np.exp(scaled - largest).sum(axis=1, keepdims=True))
        return float(-(smoothed * logs).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return round(math.exp(found.x), 4)


def targets(wanted: Decisions) -> Iterator[Target]:
    """Yield what thresholds are chosen for."""
    if wanted.sensitivity:
        yield Target(metric="sensitivity", value=wanted.sensitivity)
    if wanted.specificity:
        yield Target(metric="specificity", value=wanted.specificity)
    yield Target(metric="youden")


def choose_threshold(ill: Array, scores: Array, target: Target) -> float | None:
    """Return the threshold on p(positive) that reaches a target and gives up least of the other rate.

    It lies halfway between two neighbouring scores, so that rounding decides nothing. None without images of both
    kinds, or where no threshold reaches the target.

    Args:
        ill: bool (n,): which validation images are positive.
        scores: p(positive), float (n,).
        target: A sensitivity, a specificity, or Youden's index (Youden, W. J. (1950): Index for rating diagnostic
            tests).
    """
    if not ill.any() or ill.all():
        return None
    # To float32, as a deployed file computes them: what it cannot tell apart no threshold may part.
    scores = scores.astype(np.float32).astype(np.float64)
    distinct = np.unique(scores)
    candidates = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2, [(distinct[-1] + 1) / 2]])
    sensitivity, specificity = rates_by_threshold(ill, scores, candidates)
    if target.metric == "youden":
        return float(candidates[np.argmax(sensitivity + specificity)])
    reached = (sensitivity if target.metric == "sensitivity" else specificity) >= float(target.value or 0) - 1e-12
    if not reached.any():
        return None
    chosen = np.flatnonzero(reached)[-1 if target.metric == "sensitivity" else 0]
    return float(candidates[chosen])


def rates_by_threshold(ill: Array, scores: Array, thresholds: Array) -> tuple[Array, Array]:
    """Return the sensitivity and the specificity of each threshold."""
    positive, negative = np.sort(scores[ill]), np.sort(scores[~ill])
    missed, cleared = np.searchsorted(positive, thresholds), np.searchsorted(negative, thresholds)
    return 1 - missed / max(1, len(positive)), cleared / max(1, len(negative))


def operating_point(
    target: Target,
    threshold: float,
    positive: Sequence[str],
    ill: Array,
    scores: Array,
    patients: Array | None = None,
) -> OperatingPoint | None:
    """Return a threshold as it stands in the contract, with what it does on the test images; None if they lack a kind.

    Args:
        target: What the threshold was chosen for.
        threshold: On p(positive).
        positive: The positive classes.
        ill: bool (n,): which test images are positive.
        scores: p(positive), float (n,).
        patients: int (n,): the patient of each image, where images share patients.
    """
    if not ill.any() or ill.all():
        return None
    found = evaluation.rates(ill, scores >= threshold, patients)
    return OperatingPoint(name=name_of(target), positive=tuple(positive), threshold=threshold, target=target, **found)


def name_of(target: Target) -> str:
    """Return what an operating point is called: `sensitivity-95`, `youden`."""
    return target.metric if target.value is None else f"{target.metric}-{100 * target.value:g}"
