"""When do two sets of outputs agree? The one table of tolerances, and the comparison that applies it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]

# Below this spread of the logits over the images, any two models agree and a verdict proves nothing.
LEAST_SPREAD = 0.05

# What really ran -> (largest difference of a logit from torch fp32, whether it grows with the spread).
TOLERANCES = {"fp32": (1e-4, True), "tf32": (1e-2, False), "fp16": (2e-2, False)}


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
    flips: tuple[int, ...]
    """Images whose label changed though the reference was clear: its two highest logits lie over 2 tolerances apart."""
    ties: tuple[int, ...]
    """Images whose label changed where the reference was not clear."""

    @property
    def agrees(self) -> bool:
        """Whether every logit is within the tolerance and no label flipped."""
        return self.max_difference <= self.tolerance and not self.flips

    @property
    def is_telling(self) -> bool:
        """Whether the reference varies enough for agreement to mean anything."""
        return self.spread >= LEAST_SPREAD


def compare(reference: Logits, observed: Logits, *, precision: str = "fp32", temperature: float = 1.0) -> Comparison:
    """Compare logits, each float32 (images, classes) in the same order of classes.

    Args:
        reference: The checkpoint's, computed in torch in fp32.
        observed: The other side's.
        precision: What really ran: a key of `TOLERANCES`.
        temperature: The calibration, for the difference in probabilities.

    Raises:
        ValueError: The shapes differ, or there are no images.
    """
    if reference.shape != observed.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"logits of shapes {reference.shape} and {observed.shape}")
    spread = float(np.ptp(reference, axis=0).max()) if np.isfinite(reference).all() else 0.0
    tolerance, grows = TOLERANCES[precision]
    if grows:
        tolerance *= max(1.0, spread)
    finite = np.isfinite(reference) & np.isfinite(observed)
    # What is no number counts as infinitely far: every comparison with a NaN is False, and so would pass.
    difference = np.where(finite, np.abs(np.where(finite, reference, 0) - np.where(finite, observed, 0)), np.inf)
    changed = np.flatnonzero(reference.argmax(axis=1) != observed.argmax(axis=1))
    top_two = np.sort(reference, axis=1)[:, -2:]
    clear = top_two[:, 1] - top_two[:, 0] > 2 * tolerance
    return Comparison(
        spread=spread,
        tolerance=tolerance,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        max_probability_difference=float(
            np.abs(softmax(reference, temperature) - softmax(observed, temperature)).max()
        ),
        flips=tuple(int(i) for i in changed if clear[i]),
        ties=tuple(int(i) for i in changed if not clear[i]),
    )


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return probabilities, float64 (images, classes)."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
