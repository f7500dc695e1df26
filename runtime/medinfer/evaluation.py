"""What is told of a model on images whose class is known: the same for a checkpoint and for a deployed file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.intervals import proportion
from medinfer.metrics import Labels, Probabilities, measure
from medinfer.screening import apply
from medinfer.spec import Abstention, ModelSpec
from medinfer.uncertainty import intervals

Array = npt.NDArray[Any]


def evaluate(
    labels: Labels,
    probabilities: Probabilities,
    spec: ModelSpec,
    patients: Array | None = None,
    *,
    scores: Array | None = None,
) -> dict[str, Any]:
    """Return every metric as JSON values, with `intervals`, and what the contract's decisions do.

    `operating_points` tells of each threshold, `abstention` of when the model would not answer.

    Args:
        labels: Index of the true class, int (n,).
        probabilities: As the contract calibrates them, (n, classes).
        spec: The contract.
        patients: int (n,): the patient of each image, where images share patients.
        scores: How unlike the training's each image is, (n,): without them nothing is told of abstention.
    """
    measured = measure(labels, probabilities, spec.classes, spec.positive)
    measured["intervals"] = intervals(labels, probabilities, spec.classes, spec.positive, patients)
    points = {}
    for point in spec.operating_points:
        ill, likely = positives(labels, probabilities, spec.classes, point.positive)
        points[point.name] = {"threshold": point.threshold, **rates(ill, likely >= point.threshold, patients)}
    if points:
        measured["operating_points"] = points
    if spec.abstention and scores is not None:
        measured["abstention"] = abstention(labels, probabilities, scores, spec.abstention, patients)
    return measured


def abstention(
    labels: Labels, probabilities: Probabilities, scores: Array, limits: Abstention, patients: Array | None = None
) -> dict[str, Any]:
    """Return what a contract's limits do on images whose class is known.

    `coverage` is the share of sets that hold the true class, also of each class in output order (None where it has no
    images); `set_sizes` counts the sets by size, from empty on; `answered` is the share of images of status `ok`, and
    `accuracy_answered` the accuracy on them; `out_of_distribution` is the share that is flagged so.

    Args:
        labels: Index of the true class, int (n,).
        probabilities: As the contract calibrates them, (n, classes).
        scores: How unlike the training's each image is, (n,).
        limits: The contract's.
        patients: int (n,): the patient of each image, where images share patients.
    """
    screened = apply(limits, probabilities, scores)
    covered = screened.sets[np.arange(len(labels)), labels]
    ok, outlying = (screened.status == status for status in ("ok", "out_of_distribution"))
    right = probabilities.argmax(axis=1) == labels
    classes = range(probabilities.shape[1])
    found: dict[str, Any] = {"wished": limits.conformal.coverage}
    for name, hits in (("coverage", covered), ("answered", ok), ("out_of_distribution", outlying)):
        found |= _share(name, hits, patients)
    found |= _share("accuracy_answered", right[ok], None if patients is None else patients[ok])
    found["coverage_per_class"] = [float(covered[labels == i].mean()) if (labels == i).any() else None for i in classes]
    found["set_sizes"] = np.bincount(screened.sets.sum(axis=1), minlength=len(classes) + 1).tolist()
    return found


def _share(name: str, hits: Array, patients: Array | None) -> dict[str, Any]:
    """Return a proportion with its interval; None where there are no images to tell."""
    interval = proportion(hits, patients)
    return {
        name: float(hits.mean()) if len(hits) else None,
        f"{name}_interval": [interval.low, interval.high] if interval else None,
    }


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
        found |= _share(name, right[chosen], None if patients is None else patients[chosen])
    return found


def as_text(evaluated: dict[str, Any]) -> str:
    """Return an evaluation as a table for people."""
    from medinfer.metrics import as_text as table

    lines = [table(evaluated, evaluated["intervals"])]
    for name, point in evaluated.get("operating_points", {}).items():
        told = (f"{kind} {_shown(point[kind], point[f'{kind}_interval'])}" for kind in ("sensitivity", "specificity"))
        lines.append(f"{name}, p(positive) >= {point['threshold']:.4f}: {', '.join(told)}")
    if found := evaluated.get("abstention"):
        share = {
            key: _shown(value, found[f"{key}_interval"]) for key, value in found.items() if f"{key}_interval" in found
        }
        lines.append(
            f"abstaining: coverage {share['coverage']}, wished {found['wished']:g}; answered {share['answered']}, "
            f"accuracy on them {share['accuracy_answered']}; out of distribution {share['out_of_distribution']}"
        )
    return "\n".join(lines)


def _shown(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
