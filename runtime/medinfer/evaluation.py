"""What is told of a model on images whose class is known: the same for a checkpoint and for a deployed file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.intervals import proportion
from medinfer.metrics import Labels, Probabilities, measure
from medinfer.spec import ModelSpec
from medinfer.uncertainty import intervals

Array = npt.NDArray[Any]


def evaluate(
    labels: Labels, probabilities: Probabilities, spec: ModelSpec, patients: Array | None = None
) -> dict[str, Any]:
    """Return every metric as JSON values, with `intervals`, and `operating_points`: what each of the contract does.

    Args:
        labels: Index of the true class, int (n,).
        probabilities: As the contract calibrates them, (n, classes).
        spec: The contract.
        patients: int (n,): the patient of each image, where images share patients.
    """
    measured = measure(labels, probabilities, spec.classes, spec.positive)
    measured["intervals"] = intervals(labels, probabilities, spec.classes, spec.positive, patients)
    points = {}
    for point in spec.operating_points:
        ill, scores = positives(labels, probabilities, spec.classes, point.positive)
        points[point.name] = {"threshold": point.threshold, **rates(ill, scores >= point.threshold, patients)}
    return {**measured, "operating_points": points} if points else measured


def positives(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], positive: Sequence[str]
) -> tuple[Array, Array]:
    """Return which images are of a positive class, bool (n,), and p(positive), float (n,)."""
    chosen = [list(classes).index(name) for name in positive]
    # In float64, as a rule of the runtime sums them.
    return np.isin(labels, chosen), probabilities[:, chosen].astype(np.float64).sum(axis=1)


def rates(ill: Array, called: Array, patients: Array | None = None) -> dict[str, Any]:
    """Return sensitivity and specificity with their intervals; None where there are no images to tell.

    Args:
        ill: bool (n,): which images are positive.
        called: bool (n,): which were called so.
        patients: int (n,): the patient of each image, where images share patients.
    """
    found: dict[str, Any] = {}
    for name, right, chosen in (("sensitivity", called, ill), ("specificity", ~called, ~ill)):
        interval = proportion(right[chosen], None if patients is None else patients[chosen])
        found[name] = float(right[chosen].mean()) if interval else None
        found[f"{name}_interval"] = [interval.low, interval.high] if interval else None
    return found


def as_text(evaluated: dict[str, Any]) -> str:
    """Return an evaluation as a table for people."""
    from medinfer.metrics import as_text as table

    lines = [table(evaluated, evaluated["intervals"])]
    for name, point in evaluated.get("operating_points", {}).items():
        told = (f"{kind} {_shown(point[kind], point[f'{kind}_interval'])}" for kind in ("sensitivity", "specificity"))
        lines.append(f"{name}, p(positive) >= {point['threshold']:.4f}: {', '.join(told)}")
    return "\n".join(lines)


def _shown(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
