"""How far the metrics can be trusted: 95 % intervals for what `medinfer.metrics.measure` returns, in its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.intervals import Interval, bootstrap, delong, wilson
from medinfer.metrics import PER_CLASS, Calibration, Labels, Probabilities

Array = npt.NDArray[Any]


def intervals(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    positive: Sequence[str] = (),
    patients: Array | None = None,
) -> dict[str, Any]:
    """Return 95 % intervals in the shape of what `measure` returns: `{"low", "high", "method"}`, or None.

    Proportions of independent images have Wilson's, areas under ROC curves DeLong's, everything else a bootstrap that
    keeps the classes' sizes; where patients are known, proportions have the bootstrap over patients.

    Args:
        labels: Index of the true class, int (n,).
        probabilities: (n, classes).
        classes: Class names in output order.
        positive: The classes that count as disease.
        patients: int (n,): the patient of each image, where images share patients.
    """
    resampled = _Resampled(labels, probabilities, len(classes), [classes.index(name) for name in positive])
    found = dict(zip(resampled.names, bootstrap(resampled, labels, patients), strict=True))
    predicted = probabilities.argmax(axis=1)
    truths = labels[:, None] == np.arange(len(classes))
    for i in range(len(classes)):
        found["auc", i] = _delong(truths[:, [i]], probabilities[:, [i]], patients)
    found["macro_auc"] = _delong(truths, probabilities, patients)
    if patients is None:
        found["accuracy"] = _wilson(predicted == labels)
        for i in range(len(classes)):
            found["precision", i] = _wilson((labels == i)[predicted == i])
            found["recall", i] = _wilson((predicted == i)[labels == i])
        if positive:
            ill, called = np.isin(labels, resampled.positive), np.isin(predicted, resampled.positive)
            found["sensitivity"], found["specificity"] = _wilson(called[ill]), _wilson(~called[~ill])
    told = {name: interval and interval.to_json() for name, interval in found.items()}
    shaped: dict[str, Any] = {name: told[name] for name in told if isinstance(name, str)}
    shaped["per_class"] = {
        name: {key: told[key, i] for key in (*PER_CLASS, "auc", "average_precision")} for i, name in enumerate(classes)
    }
    for mean in ("macro", "weighted"):
        shaped[mean] = {key: shaped.pop(f"{mean} {key}") for key in PER_CLASS}
    return shaped


class _Resampled:
    """The metrics of `measure` for weighted images, all resamples at once: (resamples, n) -> (resamples, metrics)."""

    def __init__(self, labels: Labels, probabilities: Probabilities, classes: int, positive: Sequence[int]) -> None:
        self.classes, self.positive = classes, list(positive)
        self.calibration = Calibration(labels, probabilities)
        self.cells = np.eye(classes**2)[labels * classes + probabilities.argmax(axis=1)]
        self.curves = [_Curve(labels == i, probabilities[:, i]) for i in range(classes)]
        each = [(key, i) for key in (*PER_CLASS, "average_precision") for i in range(classes)]
        means = [f"{mean} {key}" for mean in ("macro", "weighted") for key in PER_CLASS]
        self.names: list[Any] = [*each, *means, "accuracy", "balanced_accuracy", "macro_average_precision"]
        self.names += ["brier", "nll", "ece", "ece_mass", *(["sensitivity", "specificity"] if self.positive else [])]

    def __call__(self, weights: Array) -> Array:
        """Return the metrics in the order of `names`, NaN where undefined."""
        table = (weights @ self.cells).reshape(-1, self.classes, self.classes)
        hits, truth, called = table.diagonal(axis1=1, axis2=2), table.sum(axis=2), table.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = [hits / called, hits / truth, 2 * hits / (called + truth)]
            curves = np.stack([curve(weights) for curve in self.curves], axis=1)
            total = weights.sum(axis=1)
            shares = truth / total[:, None]
            means = [values.mean(axis=1) for values in each]
            means += [np.where(shares > 0, values * shares, 0).sum(axis=1) for values in each]
            balanced = np.nanmean(np.where(truth > 0, each[1], np.nan), axis=1)
            single = [hits.sum(axis=1) / total, balanced, curves.mean(axis=1)]
            single += [weights @ values / total for values in (self.calibration.brier, self.calibration.nll)]
            bins = (self.calibration.equal_width, self.calibration.equal_mass)
            single += [self.calibration.error(one, weights) for one in bins]
            if self.positive:
                ill = np.isin(np.arange(self.classes), self.positive)
                single += [
                    table[:, ill][:, :, ill].sum(axis=(1, 2)) / truth[:, ill].sum(axis=1),
                    table[:, ~ill][:, :, ~ill].sum(axis=(1, 2)) / truth[:, ~ill].sum(axis=1),
                ]
        return np.column_stack([*each, curves, *means, *single])


class _Curve:
    """The average precision of one class for weighted images."""

    def __init__(self, truth: Array, scores: Array) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.truth = truth[self.order].astype(np.float64)
        ordered = scores[self.order]
        # Images of one score stand or fall together: a threshold lies only behind the last of them.
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def __call__(self, weights: Array) -> Array:
        """Return it for weights (resamples, n)."""
        drawn = weights[:, self.order]
        hits = np.cumsum(drawn * self.truth, axis=1)[:, self.ends]
        called = np.cumsum(drawn, axis=1)[:, self.ends]
        gained = np.diff(hits, axis=1, prepend=0)
        areas = np.where(gained > 0, gained * hits / np.maximum(called, 1), 0).sum(axis=1)
        return np.asarray(areas / hits[:, -1])


def _delong(truths: Array, scores: Array, patients: Array | None) -> Interval | None:
    if not (truths.any(axis=0) & ~truths.all(axis=0)).all():
        return None
    return delong(truths, scores, patients)[1]


def _wilson(successes: Array) -> Interval | None:
    return wilson(int(successes.sum()), len(successes)) if len(successes) else None
