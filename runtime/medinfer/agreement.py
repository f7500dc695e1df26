"""When do two sets of outputs agree? The one table of tolerances, and the comparison that applies it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

# Below this spread of the logits over the images, any two models agree and a verdict proves nothing.
LEAST_SPREAD = 0.05

# Of a softmax in fp32.
ROUNDING = 1e-6
# Of a product in fp64.
TINY = 1e-9
# What really ran -> (largest difference of a logit from torch fp32, whether it grows with the spread).
TOLERANCES = {
    "fp32": (1e-4, True),
    "tf32": (1e-2, False),
    "fp16": (2e-2, False),
    "bf16": (2e-2, False),
    # 256 levels a tensor promise no single logit: labels are judged, and the area under the ROC curves.
    "int8": (math.inf, False),
}
# Of int8: the least share of labels kept, and what the 95 % interval of the loss of macro AUC must stay under.
LEAST_KEPT, MOST_LOST = 0.99, 0.01
# And the fewest images that it is judged on: of fewer than a hundred no label at all may change.
LEAST_JUDGED = 50
# The same from what the file itself answered at its export: other processors round some activations to the next level.
REPLAYED = {**TOLERANCES, "int8": (5e-2, True)}


@dataclass(frozen=True)
class Comparison:
    """Two sets of logits, image by image. Differences are absolute."""

    spread: float
    """Largest range that one logit of the reference takes over the images."""
    tolerance: float
    """Largest difference allowed."""
    max_difference: float
    mean_difference: float
    max_probability_difference: float
    probability_tolerance: float
    """Largest difference of a probability that a logit within its tolerance can make, and rounding."""
    flips: tuple[int, ...]
    """Images whose label changed though the reference was clear: its two highest logits lie over 2 tolerances apart."""
    ties: tuple[int, ...]
    """Images whose label changed where the reference was not clear."""
    allowed_flips: int = 0
    """How many labels may change; none but of int8."""

    @property
    def agrees(self) -> bool:
        """Whether every logit and every probability is a number within its tolerance, and labels are kept."""
        near = self.max_difference <= self.tolerance and self.max_probability_difference <= self.probability_tolerance
        return near and math.isfinite(self.max_difference) and len(self.flips) <= self.allowed_flips

    @property
    def is_telling(self) -> bool:
        """Whether the reference varies enough for agreement to mean anything."""
        return self.spread >= LEAST_SPREAD


def compare(
    reference: Logits,
    observed: Logits,
    probabilities: Logits,
    *,
    precision: str = "fp32",
    temperature: float = 1.0,
    replayed: bool = False,
) -> Comparison:
    """Compare answers, each float32 (images, classes) in the same order of classes.

    Args:
        reference: The checkpoint's logits, computed in torch in fp32.
        observed: The other side's logits.
        probabilities: The other side's probabilities, which its labels and decisions come from.
        precision: What really ran: a key of `TOLERANCES`.
        temperature: The checkpoint's calibration, by which its logits become probabilities.
        replayed: Whether the reference is what the same file answered when it was exported, and not the checkpoint.

    Raises:
        ValueError: The shapes differ, or there are no images.
    """
    if reference.shape != observed.shape or reference.shape != probabilities.shape or reference.ndim != 2:
        raise ValueError(f"answers of shapes {reference.shape}, {observed.shape} and {probabilities.shape}")
    if not len(reference):
        raise ValueError("no images")
    spread = float(np.ptp(reference, axis=0).max()) if np.isfinite(reference).all() else 0.0
    tolerance, grows = (REPLAYED if replayed else TOLERANCES)[precision]
    if grows:
        tolerance *= max(1.0, spread)
    difference = _distance(reference, observed)
    changed = np.flatnonzero(reference.argmax(axis=1) != probabilities.argmax(axis=1))
    top_two = np.sort(reference, axis=1)[:, -2:]
    by_labels = math.isinf(tolerance)
    clear = (top_two[:, 1] - top_two[:, 0] > 2 * tolerance) | by_labels
    return Comparison(
        spread=spread,
        tolerance=tolerance,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        max_probability_difference=float(_distance(softmax(reference, temperature), probabilities).max()),
        # The slope of a softmax is at most 1/2, where all logits move apart by the tolerance.
        probability_tolerance=tolerance / (2 * temperature) + ROUNDING,
        flips=tuple(int(i) for i in changed if clear[i]),
        ties=tuple(int(i) for i in changed if not clear[i]),
        allowed_flips=most_flips(len(reference)) if by_labels else 0,
    )


def most_flips(images: int) -> int:
    """Return how many of so many labels int8 may change."""
    return math.floor(images * (1 - LEAST_KEPT) + TINY)


def _distance(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return absolute differences; what is no number is infinitely far, for a comparison with NaN is always False."""
    finite = np.isfinite(wanted) & np.isfinite(found)
    return np.where(finite, np.abs(np.where(finite, wanted, 0) - np.where(finite, found, 0)), np.inf)


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return probabilities, float64 (images, classes)."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def compare_scores(
    reference: Scores, observed: Scores, precision: str, *, replayed: bool = False
) -> tuple[float, bool]:
    """Return the largest difference of scores of unlike images, and whether each is within its tolerance.

    That is of a logit of spread 1, and grows with a score over 1. NaN agrees with nothing.

    Args:
        reference: The checkpoint's, float32 (images,).
        observed: The other side's.
        precision: What the other side really computed in.
        replayed: As of `compare`.
    """
    difference = np.abs(reference - observed)
    allowed = (REPLAYED if replayed else TOLERANCES)[precision][0] * np.maximum(1, np.abs(reference))
    return float(difference.max()), bool((difference <= allowed).all())
