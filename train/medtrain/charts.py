"""The charts of a report: each an SVG inside a data URI, with words for those who cannot see it.

Colours are Okabe and Ito's, which the colour-blind tell apart; lines differ in their dashes as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medinfer.errors import MissingExtraError
from medinfer.intervals import bootstrap, wilson
from medinfer.metrics import BINS, Labels, Reliability
from medinfer.uncertainty import Ranking
from medtrain.calibration import rates_by_threshold

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError("matplotlib", "train") from None

Array = npt.NDArray[Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("-", "--", "-.", ":")
GRID = np.linspace(0, 1, 101)
# No clock and no random names: the same run draws the same file.
STYLE: Any = {"svg.hashsalt": "medonnx", "font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}


class Chart(NamedTuple):
    """A chart, ready for a page."""

    title: str
    words: str
    """What it shows, for those who cannot see it."""
    source: str
    """A data URI."""


class Curve(NamedTuple):
    """One class against the rest."""

    name: str
    truth: Array
    """bool (n,)"""
    scores: Array
    """float (n,)"""
    area: float | None
    """Under the ROC curve."""
    precision: float | None
    """The average precision."""


def data_uri(content: bytes, kind: str) -> str:
    """Return a file's content as a URI that needs no request."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@contextmanager
def _axes(charts: list[Chart], title: str, words: str, size: tuple[float, float] = (5.6, 4.0)) -> Iterator[Any]:
    """Yield axes to draw on; afterwards the chart is added."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        yield axes
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", framealpha=0.8)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    charts.append(Chart(title, words, data_uri(file.getvalue(), "image/svg+xml")))


def class_counts(counts: Mapping[str, Mapping[str, int]]) -> list[Chart]:
    """Draw how many images each split has of each class."""
    splits = {split: row for split, row in counts.items() if any(row.values())}
    classes = list(next(iter(splits.values())))
    words = "; ".join(
        f"{split}: {', '.join(f'{n} {name}' for name, n in row.items())}" for split, row in splits.items()
    )
    charts: list[Chart] = []
    with _axes(charts, "Images by class and split", words, (5.6, 0.9 + 0.5 * len(classes))) as axes:
        left = np.zeros(len(classes))
        for colour, (split, row) in zip(COLOURS, splits.items(), strict=False):
            values = np.array([row[name] for name in classes])
            axes.barh(classes, values, left=left, color=colour, label=split, edgecolor="white")
            left += values
        axes.invert_yaxis()
        axes.set(xlabel="images")
    return charts


def training(history: Sequence[Mapping[str, float]], rate: Callable[[float], float], best: int) -> list[Chart]:
    """Draw losses, accuracies and the learning rate by epoch.

    Args:
        history: A row for each epoch.
        rate: The learning rate after so many epochs.
        best: The best epoch, counted from 1.
    """
    epochs = [row["epoch"] for row in history]
    first, last = history[0], history[-1]
    charts: list[Chart] = []
    panels = {
        "Loss": {"training": "train_loss", "validation": "validation_loss"},
        "Accuracy and AUC": {
            "training accuracy": "train_accuracy",
            "validation accuracy": "validation_accuracy",
            "validation AUC": "validation_auc",
        },
    }
    for title, lines in panels.items():
        words = "; ".join(f"{name} from {first[key]:.3f} to {last[key]:.3f}" for name, key in lines.items())
        with _axes(charts, title, f"{words}, over {len(epochs)} epochs; the best is {best}", (5.6, 3.4)) as axes:
            for i, (name, key) in enumerate(lines.items()):
                axes.plot(
                    epochs, [row[key] for row in history], DASHES[i], color=COLOURS[i], marker="o", ms=3, label=name
                )
            axes.axvline(best, color="gray", linestyle=":", label="best epoch")
            axes.set(xlabel="epoch")
    steps = np.linspace(0, len(epochs), 40 * len(epochs), endpoint=False)
    values = [rate(step) for step in steps]
    with _axes(charts, "Learning rate", f"at most {max(values):.2g}, at the end {values[-1]:.2g}", (5.6, 2.6)) as axes:
        axes.plot(steps, values, color=COLOURS[0])
        axes.set(xlabel="epochs done")
    return charts


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Chart]:
    """Draw the confusion matrix: rows are the truth."""
    counts = np.array(matrix)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    words = "; ".join(
        f"of {int(row.sum())} {name}: "
        + ", ".join(f"{n} called {other}" for other, n in zip(classes, row, strict=True))
        for name, row in zip(classes, counts, strict=True)
    )
    side = 2.4 + 0.7 * len(classes)
    charts: list[Chart] = []
    with _axes(charts, "Confusion matrix", words, (side + 0.6, side)) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(counts):
            axes.text(j, i, str(n), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
        ticks = range(len(classes))
        axes.set_xticks(ticks, classes, rotation=30, ha="right")
        axes.set_yticks(ticks, classes)
        axes.set(xlabel="called", ylabel="truth")
        axes.grid(visible=False)
    return charts


def receiver_operating_characteristics(curves: Sequence[Curve], patients: Array | None) -> list[Chart]:
    """Draw ROC curves with pointwise 95 % bands of the bootstrap."""
    words = "; ".join(f"{one.name}: AUC {one.area:.3f}" for one in curves)
    charts: list[Chart] = []
    with _axes(charts, "ROC curves and their areas", f"{words}; bands are pointwise 95 % bootstrap intervals") as axes:
        for i, one in enumerate(curves):
            _curve(axes, i, one, _Sensitivity(one.truth, one.scores), patients, f"{one.name} {one.area:.3f}")
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    return charts


def precision_recall(curves: Sequence[Curve], patients: Array | None) -> list[Chart]:
    """Draw precision-recall curves with pointwise 95 % bands of the bootstrap."""
    words = "; ".join(f"{one.name}: average precision {one.precision:.3f}" for one in curves)
    charts: list[Chart] = []
    with _axes(
        charts, "Precision-recall curves, average precision", f"{words}; bands are pointwise 95 % bootstrap intervals"
    ) as axes:
        for i, one in enumerate(curves):
            _curve(axes, i, one, _Precision(one.truth, one.scores), patients, f"{one.name} {one.precision:.3f}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    return charts


def reliability(labels: Labels, before: Array, after: Array) -> list[Chart]:
    """Draw accuracy by confidence, before and after the temperature; bars are Wilson's intervals of the latter."""
    sides = {"before": Reliability(labels, before), "with temperature": Reliability(labels, after)}
    told = "; ".join(f"{name}: ECE {one.error(one.equal_width):.3f}" for name, one in sides.items())
    charts: list[Chart] = []
    with _axes(charts, "Reliability", f"accuracy by confidence; {told}") as axes:
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        for i, (name, one) in enumerate(sides.items()):
            count = np.bincount(one.equal_width, minlength=BINS)
            there = count > 0
            confidence, right = (
                np.bincount(one.equal_width, weights=w, minlength=BINS)[there] for w in (one.confidence, one.correct)
            )
            n = count[there]
            axes.plot(confidence / n, right / n, DASHES[1 - i], marker="so"[i], color=COLOURS[1 - i], label=name)
            if i:
                ends = [wilson(int(hits), int(all_)) for hits, all_ in zip(right, n, strict=True)]
                axes.vlines(confidence / n, [e.low for e in ends], [e.high for e in ends], color=COLOURS[0], alpha=0.5)
        lowest = 1 / before.shape[1]
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(lowest, 1.01), ylim=(0, 1.02))
    return charts


def thresholds(ill: Array, scores: Array, points: Mapping[str, float]) -> list[Chart]:
    """Draw sensitivity and specificity by threshold on p(positive), with the operating points."""
    sensitivity, specificity = rates_by_threshold(ill, scores, GRID)
    words = "; ".join(f"{name} at {value:.3f}" for name, value in points.items())
    charts: list[Chart] = []
    with _axes(charts, "Sensitivity and specificity by threshold", words or "no operating points") as axes:
        axes.plot(GRID, sensitivity, "-", color=COLOURS[0], label="sensitivity")
        axes.plot(GRID, specificity, "--", color=COLOURS[1], label="specificity")
        for i, (name, value) in enumerate(points.items()):
            axes.axvline(value, color=COLOURS[2 + i % 4], linestyle=":", label=f"{name}: {value:.3f}")
        axes.set(xlabel="threshold on p(positive)", xlim=(0, 1), ylim=(0, 1.01))
    return charts


class _Sensitivity(Ranking):
    """Sensitivity on a grid of false-positive rates, (resamples, grid)."""

    def __call__(self, weights: Array) -> Array:
        hits, called = self.counts(weights)
        alarms = called - hits
        rows = zip(hits / hits[:, -1:], alarms / alarms[:, -1:], strict=True)
        return np.stack([np.interp(GRID, np.append(0, x), np.append(0, y)) for y, x in rows])


class _Precision(Ranking):
    """Precision on a grid of recalls, (resamples, grid): the best that a threshold of at least that recall has."""

    def __call__(self, weights: Array) -> Array:
        hits, called = self.counts(weights)
        precision = hits / np.maximum(called, 1e-9)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        rows = zip(hits / hits[:, -1:], best, strict=True)
        return np.stack([y[np.searchsorted(x, GRID - 1e-9)] for x, y in rows])


def _curve(axes: Any, i: int, one: Curve, values: Callable[[Array], Array], patients: Array | None, label: str) -> None:
    """Draw one class's curve and its band."""
    colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
    centre = values(np.ones((1, len(one.truth))))[0]
    band = bootstrap(values, one.truth.astype(int), patients)
    low, high = (
        [getattr(found, end) if found else at for found, at in zip(band, centre, strict=True)]
        for end in ("low", "high")
    )
    axes.fill_between(GRID, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(GRID, centre, dash, color=colour, label=label)
