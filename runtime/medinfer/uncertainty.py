"""How far the metrics can be trusted: 95 % intervals for what `medinfer.metrics.measure` returns, in its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.intervals import Interval, bootstrap, delong, proportion
from medinfer.metrics import PER_CLASS, Labels, Probabilities, Reliability

Array = npt.NDArray[Any]


def intervals(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    positive: Sequence[str] = (),
    patients: Array | None = None,
) -> dict[str, Any]:
    """Return 95 % intervals in the shape of what `measure` returns: `{"low", "high", "method"}`, or None.

    Proportions have Wilson's, areas under ROC curves DeLong's, everything else a bootstrap that keeps the classes'
    sizes; each over patients where they are known. Calibration errors have none: they are sums of absolute values, and
    a bootstrap of them misses the truth more often than not.

    Args:
        labels: Index of the true class, int (n,).
        probabilities: (n, classes).
        classes: Class names in output order.
        positive: The classes that count as disease.
        patients: int (n,): the patient of each image, where images share patients.
    """
    resampled = _Resampled(labels, probabilities, len(classes))
    found: dict[Any, Interval | None] = dict(zip(resampled.names, bootstrap(resampled, labels, patients), strict=True))
    predicted = probabilities.argmax(axis=1)
    truths = labels[:, None] == np.arange(len(classes))
    for i in range(len(classes)):
        found["auc", i] = _delong(truths[:, [i]], probabilities[:, [i]], patients)
        found["precision", i] = _proportion(labels == i, predicted == i, patients)
        found["recall", i] = _proportion(predicted == i, labels == i, patients)
    found["macro_auc"] = _delong(truths, probabilities, patients)
    found["accuracy"] = _proportion(predicted == labels, np.full(len(labels), True), patients)
    found["ece"] = found["ece_mass"] = None
    if positive:
        wanted = [classes.index(name) for name in positive]
        ill, called = np.isin(labels, wanted), np.isin(predicted, wanted)
        found["sensitivity"] = _proportion(called, ill, patients)
        found["specificity"] = _proportion(~called, ~ill, patients)
    told = {name: interval and interval.to_json() for name, interval in found.items()}
    shaped: dict[str, Any] = {name: told[name] for name in told if isinstance(name, str)}
    shaped["per_class"] = {
        name: {key: told[key, i] for key in (*PER_CLASS, "auc", "average_precision")} for i, name in enumerate(classes)
    }
    for mean in ("macro", "weighted"):
        shaped[mean] = {key: shaped.pop(f"{mean} {key}") for key in PER_CLASS}
    return shaped


def macro_auc_loss(
    labels: Labels, before: Probabilities, after: Probabilities, patients: Array | None = None
) -> Interval | None:
    """Return the interval of how much macro AUC a model loses by a change, by a bootstrap over pairs of answers.

    None where a class has no images or no others, or where no draw tells any difference.

    Args:
        labels: Index of the true class, int (n,).
        before: (n, classes).
        after: The changed model's, on the same images.
        patients: int (n,): the patient of each image, where images share patients.
    """
    truths = labels[:, None] == np.arange(before.shape[1])
    if not (truths.any(axis=0) & ~truths.all(axis=0)).all():
        return None
    sides = [[_Area(truths[:, i], side[:, i]) for i in range(side.shape[1])] for side in (before, after)]

    def loss(weights: Array) -> Array:
        first, second = (np.mean([area(weights) for area in areas], axis=0) for areas in sides)
        return np.asarray(first - second)[:, None]

    return bootstrap(loss, labels, patients)[0]


class _Resampled:
    """Metrics of `measure` for weighted images, all resamples at once: (resamples, n) -> (resamples, metrics)."""

    def __init__(self, labels: Labels, probabilities: Probabilities, classes: int) -> None:
        self.scores = Reliability(labels, probabilities)
        self.truth, self.called = np.eye(classes)[labels], np.eye(classes)[probabilities.argmax(axis=1)]
        self.hits = self.truth * self.called
        self.curves = [_AveragePrecision(labels == i, probabilities[:, i]) for i in range(classes)]
        each = [(key, i) for key in ("f1", "average_precision") for i in range(classes)]
        means = [f"{mean} {key}" for mean in ("macro", "weighted") for key in PER_CLASS]
        self.names: list[Any] = [*each, *means, "balanced_accuracy", "macro_average_precision", "brier", "nll"]

    def __call__(self, weights: Array) -> Array:
        """Return the metrics in the order of `names`, NaN where undefined."""
        hits, truth, called = weights @ self.hits, weights @ self.truth, weights @ self.called
        with np.errstate(invalid="ignore", divide="ignore"):
            each = [hits / called, hits / truth, 2 * hits / (called + truth)]
            curves = np.stack([curve(weights) for curve in self.curves], axis=1)
            total = weights.sum(axis=1)
            shares = truth / total[:, None]
            means = [values.mean(axis=1) for values in each]
            means += [np.where(shares > 0, values * shares, 0).sum(axis=1) for values in each]
            there = truth > 0
            balanced = np.where(there, each[1], 0).sum(axis=1) / there.sum(axis=1)
            single = [balanced, curves.mean(axis=1)]
            single += [weights @ values / total for values in (self.scores.brier, self.scores.nll)]
        return np.column_stack([each[2], curves, *means, *single])


class Ranking:
    """One class against the rest, in the order of falling scores, for weighted images."""

    def __init__(self, truth: Array, scores: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._truth = truth[self._order].astype(np.float64)
        ordered = scores[self._order]
        # Images of one score stand or fall together: a threshold lies only behind the last of them.
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """Return how many of the class, and how many in all, reach each distinct score; (resamples, scores)."""
        drawn = weights[:, self._order]
        hits: Array = np.cumsum(drawn * self._truth, axis=1)[:, self._ends]
        called: Array = np.cumsum(drawn, axis=1)[:, self._ends]
        return hits, called


class _AveragePrecision(Ranking):
    """The average precision of one class for weighted images."""

    def __call__(self, weights: Array) -> Array:
        """Return it for weights (resamples, n)."""
        if self._truth.all():
            return np.full(len(weights), np.nan)  # nothing to be told apart from
        hits, called = self.counts(weights)
        gained = np.diff(hits, axis=1, prepend=0)
        areas = np.where(gained > 0, gained * hits / np.maximum(called, 1), 0).sum(axis=1)
        return np.asarray(areas / hits[:, -1])


class _Area(Ranking):
    """The area under the ROC curve of one class for weighted images."""

    def __call__(self, weights: Array) -> Array:
        """Return it for weights (resamples, n): pairs of one of the class and another, ties counting half."""
        hits, called = self.counts(weights)
        gained, falls = np.diff(hits, axis=1, prepend=0), np.diff(called - hits, axis=1, prepend=0)
        pairs = hits[:, -1] * (called - hits)[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((falls * (hits - gained / 2)).sum(axis=1) / pairs)


def _delong(truths: Array, scores: Array, patients: Array | None) -> Interval | None:
    if not (truths.any(axis=0) & ~truths.all(axis=0)).all():
        return None
    return delong(truths, scores, patients)[1]


def _proportion(right: Array, chosen: Array, patients: Array | None) -> Interval | None:
    return proportion(right[chosen], None if patients is None else patients[chosen])
