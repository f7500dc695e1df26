"""Whether a contestant's answers are the checkpoint's, and how good they are where labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.subjects import Prepared
from medinfer.agreement import compare, softmax
from medinfer.metrics import measure

# Where probabilities are told, and no logits: their rounding to six digits, and what a fp32 logit's tolerance makes.
PROBABILITY_TOLERANCE = 1e-4


def verdict(subject: Prepared, answers: npt.NDArray[np.float32], kind: str, precision: str) -> dict[str, Any]:
    """Hold answers to the checkpoint's on the same images.

    Args:
        subject: Who knows the checkpoint's answers and the labels.
        answers: On the subject's first images: float32 (n, classes).
        kind: What they are, `logits` or `probabilities`.
        precision: What may be rounded: a row of `medinfer.agreement.TOLERANCES`.
    """
    reference = subject.reference[: len(answers)]
    temperature = subject.spec.calibration.temperature
    if not np.isfinite(answers).all() or answers.shape != reference.shape:
        return {"of": kind, "max_difference": None, "agrees": False, "flips": len(answers)}
    if kind == "logits":
        probabilities = softmax(answers, temperature)
        observed = probabilities.astype(np.float32)
        found = compare(reference, answers, observed, precision=precision, temperature=temperature)
        told = {"max_difference": found.max_difference, "agrees": found.agrees, "flips": len(found.flips)}
    else:
        probabilities, wanted = answers.astype(np.float64), softmax(reference, temperature)
        difference = float(np.abs(probabilities - wanted).max())
        flips = int((probabilities.argmax(axis=1) != wanted.argmax(axis=1)).sum())
        told = {"max_difference": difference, "agrees": difference <= PROBABILITY_TOLERANCE, "flips": flips}
    return {"of": kind, **told, **_quality(subject, probabilities)}


def _quality(subject: Prepared, probabilities: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return accuracy and AUC over the images whose class is known; nothing where there is none."""
    classes = subject.spec.classes
    known = [i for i, label in enumerate(subject.labels[: len(probabilities)]) if label is not None]
    if not known:
        return {}
    labels = np.array([classes.index(str(subject.labels[i])) for i in known], np.int64)
    found = measure(labels, probabilities[known], classes)
    return {"accuracy": found["accuracy"], "macro_auc": found["macro_auc"]}
