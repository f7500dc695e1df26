"""How good a classifier is: THE one set of metrics, for a checkpoint and for a deployed file alike.

Needs the extra `[evaluate]` (scikit-learn); nothing else in the runtime imports this module.
A metric that the data leaves undefined is None, and `undefined` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import MissingExtraError

try:
    from sklearn import metrics as sk
except ImportError:
    raise MissingExtraError("scikit-learn", "evaluate") from None

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Array = npt.NDArray[Any]

BINS = 15
# A probability of 0 for what happened costs this much of the log-likelihood, and not everything.
SMALLEST = float(np.finfo(np.float32).tiny)
PER_CLASS = ("precision", "recall", "f1")


def measure(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], positive: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the metrics as JSON values.

    `nll` is the mean negative log-likelihood; `brier` the mean squared distance from the truth, summed over classes (0
    to 2); `ece` and `ece_mass` the expected calibration error of the most probable class, in 15 bins of equal width and
    of equal counts (Naeini, M. P. et al. (2015): Obtaining well calibrated probabilities using Bayesian binning).

    Args:
        labels: Index of the true class, int (n,).
        probabilities: (n, classes).
        classes: Class names in output order.
        positive: The classes that count as disease; sensitivity and specificity are of the most probable class
            belonging to them.

    Raises:
        ValueError: No images, or shapes that do not fit.
    """
    if not len(labels) or probabilities.shape != (len(labels), len(classes)):
        raise ValueError(f"{len(labels)} labels, probabilities {probabilities.shape}, {len(classes)} classes")
    predicted = probabilities.argmax(axis=1)
    indices = list(range(len(classes)))
    each = sk.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=np.nan)
    support = each[3]
    seen = np.unique(labels)
    reliability = Reliability(labels, probabilities)
    measured: dict[str, Any] = {
        "images": len(labels),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(np.mean(each[1][seen])),
        "macro_auc": macro_auc(labels, probabilities),
        "macro_average_precision": None,
        "per_class": {
            name: {
                **{key: _defined(each[column][i]) for column, key in enumerate(PER_CLASS)},
                "auc": _area(sk.roc_auc_score, labels == i, probabilities[:, i]),
                "average_precision": _area(sk.average_precision_score, labels == i, probabilities[:, i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "macro": {key: _defined(np.mean(each[column])) for column, key in enumerate(PER_CLASS)},
        "weighted": {key: _weighted(each[column], support) for column, key in enumerate(PER_CLASS)},
        "brier": float(reliability.brier.mean()),
        "nll": float(reliability.nll.mean()),
        "ece": reliability.error(reliability.equal_width),
        "ece_mass": reliability.error(reliability.equal_mass),
        "confusion_matrix": sk.confusion_matrix(labels, predicted, labels=indices).tolist(),
        **_sensitivity_and_specificity(labels, predicted, classes, positive),
    }
    precisions = [row["average_precision"] for row in measured["per_class"].values()]
    measured["macro_average_precision"] = None if None in precisions else float(np.mean(precisions))
    return {**measured, "undefined": _reasons(measured, labels, predicted, classes, positive)}


def macro_auc(labels: Labels, probabilities: Probabilities) -> float | None:
    """Mean one-vs-rest ROC-AUC over the classes; None unless each has both positives and negatives."""
    areas = [_area(sk.roc_auc_score, labels == i, probabilities[:, i]) for i in range(probabilities.shape[1])]
    return None if None in areas else float(np.mean(areas))  # type: ignore[arg-type]


class Reliability:
    """For `measure` and its intervals: what each image says of how far its probabilities can be believed."""

    def __init__(self, labels: Labels, probabilities: Probabilities) -> None:
        p = probabilities.astype(np.float64)
        truth = np.eye(p.shape[1])[labels]
        self.brier = ((p - truth) ** 2).sum(axis=1)
        self.nll = -np.log(np.maximum(p[np.arange(len(p)), labels], SMALLEST))
        self.confidence, self.correct = p.max(axis=1), p.argmax(axis=1) == labels
        self.equal_width = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        # Images of one confidence share a bin, whatever their order.
        rank = np.searchsorted(np.sort(self.confidence), self.confidence, "left")
        self.equal_mass = rank * BINS // len(p)

    def error(self, bins: Array) -> float:
        """Return the expected calibration error."""
        gaps = np.bincount(bins, weights=self.confidence - self.correct, minlength=BINS)
        return float(np.abs(gaps).sum() / len(bins))


def _area(score: Any, truth: Array, scores: Array) -> float | None:
    """Return an area under a curve; None unless there are both positives and negatives."""
    return float(score(truth, scores)) if truth.any() and not truth.all() else None


def _weighted(values: Array, support: Array) -> float | None:
    there = support > 0
    return _defined(np.average(values[there], weights=support[there]))


def _sensitivity_and_specificity(
    labels: Labels, predicted: Labels, classes: Sequence[str], positive: Sequence[str]
) -> dict[str, float | None]:
    if not positive:
        return {}
    wanted = [classes.index(name) for name in positive]
    truth, answer = np.isin(labels, wanted), np.isin(predicted, wanted)
    return {
        "sensitivity": float(np.mean(answer[truth])) if truth.any() else None,
        "specificity": float(np.mean(~answer[~truth])) if not truth.all() else None,
    }


def _reasons(
    measured: dict[str, Any], labels: Labels, predicted: Labels, classes: Sequence[str], positive: Sequence[str]
) -> dict[str, str]:
    """Say of each metric that is None why it is."""
    found: dict[str, str] = {}
    for i, (name, row) in enumerate(measured["per_class"].items()):
        there, called = (labels == i).any(), (predicted == i).any()
        why = f"no image of {name}" if not there else f"nothing was called {name}"
        found |= {f"{key} of {name}": why for key in PER_CLASS if row[key] is None and not (there and called)}
        why = f"no image of {name}" if not there else f"only images of {name}"
        found |= {f"{key} of {name}": why for key in ("auc", "average_precision") if row[key] is None}
    for key in ("macro_auc", "macro_average_precision"):
        if measured[key] is None:
            found[key] = "a class has no images, or no others"
    for mean in ("macro", "weighted"):
        found |= {f"{mean} {key}": "undefined for a class" for key in PER_CLASS if measured[mean][key] is None}
    for key, whom in (("sensitivity", "positive"), ("specificity", "negative")):
        if key in measured and measured[key] is None:
            found[key] = f"no image of a {whom} class"
    return found


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def as_text(measured: dict[str, Any], ranges: dict[str, Any] | None = None) -> str:
    """Return the metrics as a small table for people, with their intervals where they are given."""
    width = max(len("class"), *map(len, measured["per_class"]))
    lines = [f"{'class':{width}}  precision  recall      f1  support"]
    for name, row in measured["per_class"].items():
        numbers = (_shown(row[key]) for key in PER_CLASS)
        lines.append("{:{}}  {:>9}  {:>6}  {:>6}  {:>7}".format(name, width, *numbers, row["support"]))
    keys = ("accuracy", "balanced_accuracy", "macro_auc", "macro_average_precision", "sensitivity", "specificity")
    for key in (*keys, "brier", "nll", "ece"):
        if key in measured:
            one = (ranges or {}).get(key)
            told = f"  (95 %: {one['low']:.4f} to {one['high']:.4f}, {one['method']})" if one else ""
            lines.append(f"{key.replace('_', ' ')}: {_shown(measured[key])}{told}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
