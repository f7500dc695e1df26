"""How good a classifier is: THE one set of metrics, for a checkpoint and for a deployed file alike.

Needs the extra `[evaluate]` (scikit-learn); nothing else in the runtime imports this module.
A metric that the data leaves undefined is None.
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


def measure(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], positive: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the metrics as JSON values.

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
    indices = range(len(classes))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=list(indices), zero_division=np.nan
    )
    seen = np.unique(labels)
    return {
        "images": len(labels),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(np.mean(recall[seen])),
        "macro_auc": macro_auc(labels, probabilities),
        "per_class": {
            name: {
                "precision": _defined(precision[i]),
                "recall": _defined(recall[i]),
                "f1": _defined(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion_matrix": sk.confusion_matrix(labels, predicted, labels=list(indices)).tolist(),
        **_sensitivity_and_specificity(labels, predicted, classes, positive),
    }


def macro_auc(labels: Labels, probabilities: Probabilities) -> float | None:
    """Mean one-vs-rest ROC-AUC over the classes; None unless each has both positives and negatives."""
    curves = [labels == index for index in range(probabilities.shape[1])]
    if not all(truth.any() and not truth.all() for truth in curves):
        return None
    return float(np.mean([sk.roc_auc_score(truth, probabilities[:, i]) for i, truth in enumerate(curves)]))


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


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def as_text(measured: dict[str, Any]) -> str:
    """Return the metrics as a small table for people."""
    width = max(len("class"), *map(len, measured["per_class"]))
    lines = [f"{'class':{width}}  precision  recall      f1  support"]
    for name, row in measured["per_class"].items():
        numbers = (_shown(row[key]) for key in ("precision", "recall", "f1"))
        lines.append("{:{}}  {:>9}  {:>6}  {:>6}  {:>7}".format(name, width, *numbers, row["support"]))
    keys = ("accuracy", "balanced_accuracy", "macro_auc", "sensitivity", "specificity")
    lines += [f"{key.replace('_', ' ')}: {_shown(measured[key])}" for key in keys if key in measured]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
