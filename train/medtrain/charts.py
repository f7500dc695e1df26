"""The charts of a report: each an SVG inside a data URI, with words for those who cannot see it.

Colours are Okabe and Ito's, which the colour-blind tell apart; lines differ in their dashes as well.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medinfer.errors import MissingExtraError
from medinfer.intervals import bootstrap, proportion
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
# Beyond these a matrix or a name cannot be read; the tables hold them whole.
MOST_ROWS, LONGEST = 30, 24
SHADES = "Shaded: the middle 95 % of 1,000 bootstrap draws; near the ends of a curve that is too narrow."
STYLE: Any = {
    # No clock and no random names: the same run draws the same file.
    "svg.hashsalt": "medonnx",
    # A class name with dollar signs is no formula.
    "text.parse_math": False,
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}


class Chart(NamedTuple):
    """A chart, ready for a page."""

    title: str
    words: str
    """What it shows, for those who cannot see it."""
    source: str
    """A data URI."""
    note: str = ""
    """What must be known to read it."""


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


def class_counts(counts: Mapping[str, Mapping[str, int]]) -> Chart:
    """Draw how many images each split has of each class."""
    splits = {split: row for split, row in counts.items() if any(row.values())}
    classes = list(next(iter(splits.values())))

    def draw(axes: Any) -> None:
        left = np.zeros(len(classes))
        for colour, (split, row) in zip(COLOURS, splits.items(), strict=False):
            values = np.array([row[name] for name in classes])
            axes.barh(range(len(classes)), values, left=left, color=colour, label=split, edgecolor="white")
            left += values
        axes.set_yticks(range(len(classes)), [_short(name) for name in classes])
        axes.invert_yaxis()
        axes.set(xlabel="images")

    words = "; ".join(
        f"{split}: {', '.join(f'{n} {name}' for name, n in row.items())}" for split, row in splits.items()
    )
    return _chart("Images by class and split", words, draw, size=(5.6, 0.9 + 0.5 * len(classes)))


def training(history: Sequence[Mapping[str, float]], rate: Callable[[float], float], best: int) -> list[Chart]:
    """Draw losses, accuracies and the learning rate by epoch.

    Args:
        history: A row for each epoch.
        rate: The head's learning rate after so many epochs.
        best: The best epoch, counted from 1.
    """
    losses = {"training": "train_loss", "validation": "validation_loss"}
    accuracies = {
        "training accuracy": "train_accuracy",
        "validation accuracy": "validation_accuracy",
        "validation AUC": "validation_auc",
    }
    steps = np.linspace(0, len(history), 40 * len(history), endpoint=False)
    values = [rate(step) for step in steps]

    def draw(axes: Any) -> None:
        axes.plot(steps, values, color=COLOURS[0])
        axes.set(xlabel="epochs done")

    words = f"at most {max(values):.2g}, at the end {values[-1]:.2g}"
    return [
        _by_epoch("Loss", losses, history, best),
        _by_epoch("Accuracy and AUC", accuracies, history, best),
        _chart("Learning rate of the head", words, draw, size=(5.6, 2.6)),
    ]


def _by_epoch(title: str, lines: Mapping[str, str], history: Sequence[Mapping[str, float]], best: int) -> Chart:
    epochs = [row["epoch"] for row in history]

    def draw(axes: Any) -> None:
        for i, (name, key) in enumerate(lines.items()):
            axes.plot(epochs, [row[key] for row in history], DASHES[i], color=COLOURS[i], marker="o", ms=3, label=name)
        axes.axvline(best, color="gray", linestyle=":", label="best epoch")
        axes.set(xlabel="epoch")

    told = (f"{name} from {history[0][key]:.3f} to {history[-1][key]:.3f}" for name, key in lines.items())
    words = f"{'; '.join(told)}, over {len(epochs)} epochs; the best is {best}"
    return _chart(title, words, draw, size=(5.6, 3.4))


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Chart]:
    """Draw the confusion matrix, rows are the truth; nothing of so many classes that none could be read."""
    if len(classes) > MOST_ROWS:
        return []
    counts = np.array(matrix)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))

    def draw(axes: Any) -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(counts):
            axes.text(j, i, str(n), ha="center", va="center", color="white" if shares[i, j] > 0.7 else "black")
        names = [_short(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="called", ylabel="truth")
        axes.grid(visible=False)

    rows = []
    for name, row in zip(classes, counts, strict=True):
        called = ", ".join(f"{n} called {other}" for other, n in zip(classes, row, strict=True) if n)
        rows.append(f"of {int(row.sum())} {name}: {called or 'none'}")
    side = 2.4 + 0.7 * len(classes)
    return [_chart("Confusion matrix", "; ".join(rows), draw, size=(side + 0.6, side))]


def receiver_operating_characteristics(curves: Sequence[Curve], patients: Array | None) -> Chart:
    """Draw ROC curves with what the bootstrap makes of them."""

    def draw(axes: Any) -> None:
        for i, one in enumerate(curves):
            _curve(axes, i, one.truth, Sensitivity(one.truth, one.scores), patients, f"{one.name} {one.area:.3f}")
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))

    words = "; ".join(f"{one.name}: AUC {one.area:.3f}" for one in curves)
    return _chart("ROC curves and their areas", words, draw, note=SHADES)


def precision_recall(curves: Sequence[Curve], patients: Array | None) -> Chart:
    """Draw precision-recall curves with what the bootstrap makes of them."""

    def draw(axes: Any) -> None:
        for i, one in enumerate(curves):
            _curve(axes, i, one.truth, Precision(one.truth, one.scores), patients, f"{one.name} {one.precision:.3f}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))

    words = "; ".join(f"{one.name}: average precision {one.precision:.3f}" for one in curves)
    return _chart("Precision-recall curves, average precision", words, draw, note=SHADES)


def reliability(labels: Labels, before: Array, after: Array, patients: Array | None) -> Chart:
    """Draw accuracy by confidence, before and after the temperature, with intervals for the latter."""
    sides = {"without temperature": Reliability(labels, before), "with temperature": Reliability(labels, after)}

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        for i, (name, one) in enumerate(sides.items()):
            points = [(one.confidence[own].mean(), one.correct[own].mean()) for own in _bins(one)]
            axes.plot(*zip(*points, strict=True), DASHES[1 - i], marker="so"[i], color=COLOURS[1 - i], label=name)
        for own, (confidence, _) in zip(_bins(one), points, strict=True):
            found = proportion(one.correct[own], None if patients is None else patients[own])
            if found:
                axes.vlines(confidence, found.low, found.high, color=COLOURS[0], alpha=0.5)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(1 / before.shape[1], 1.01), ylim=(0, 1.02))

    told = "; ".join(f"{name}: ECE {one.error(one.equal_width):.3f}" for name, one in sides.items())
    note = "Bars: 95 % intervals of the accuracy with temperature."
    return _chart("Reliability", f"accuracy by confidence; {told}", draw, note=note)


def _bins(one: Reliability) -> list[Array]:
    """Return the images in each bin that has any."""
    members = [np.flatnonzero(one.equal_width == k) for k in range(BINS)]
    return [own for own in members if len(own)]


def thresholds(ill: Array, scores: Array, points: Mapping[str, float]) -> Chart:
    """Draw sensitivity and specificity by threshold on p(positive), with the operating points."""
    sensitivity, specificity = rates_by_threshold(ill, scores, GRID)

    def draw(axes: Any) -> None:
        axes.plot(GRID, sensitivity, "-", color=COLOURS[0], label="sensitivity")
        axes.plot(GRID, specificity, "--", color=COLOURS[1], label="specificity")
        for i, (name, value) in enumerate(points.items()):
            dashes = (0, (1 + 2 * i, 2))
            axes.axvline(value, color=COLOURS[2 + i % 4], linestyle=dashes, label=f"{name}: {value:.3f}")
        axes.set(xlabel="threshold on p(positive)", xlim=(0, 1), ylim=(0, 1.01))

    words = "; ".join(f"{name} at {value:.3f}" for name, value in points.items())
    return _chart("Sensitivity and specificity by threshold", words or "no operating points", draw)


class Sensitivity(Ranking):
    """Sensitivity on a grid of false-positive rates, (resamples, grid); NaN where no positive or negative is drawn."""

    def __call__(self, weights: Array) -> Array:
        """Return it for weights (resamples, n)."""
        hits, called = self.counts(weights)
        alarms = called - hits
        with np.errstate(invalid="ignore"):
            rows = zip(hits / hits[:, -1:], alarms / alarms[:, -1:], strict=True)
        return np.stack([np.interp(GRID, np.append(0, x), np.append(0, y)) for y, x in rows])


class Precision(Ranking):
    """Precision where each recall of a grid is first reached, (resamples, grid); NaN where no positive is drawn."""

    def __call__(self, weights: Array) -> Array:
        """Return it for weights (resamples, n)."""
        rows = np.full((len(weights), len(GRID)), np.nan)
        for row, hits, called in zip(rows, *self.counts(weights), strict=True):
            if hits[-1]:
                # A recall of nothing is taken for that of the first hit.
                wanted = np.maximum(GRID * hits[-1], hits[hits > 0][0])
                at = np.searchsorted(hits, wanted - 1e-9)
                row[:] = hits[at] / called[at]
        return rows


def _curve(
    axes: Any, i: int, truth: Array, values: Callable[[Array], Array], patients: Array | None, name: str
) -> None:
    """Draw one class's curve, and the band of its draws where they vary: where none does, chance is not known."""
    colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
    band = bootstrap(values, truth.astype(int), patients)
    low, high = ([getattr(found, end) if found else np.nan for found in band] for end in ("low", "high"))
    axes.fill_between(GRID, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(GRID, values(np.ones((1, len(truth))))[0], dash, color=colour, label=_short(name, LONGEST + 6))


def _short(name: str, most: int = LONGEST) -> str:
    """Return a name that fits a chart; one that begins with _ would be left out of a legend."""
    name = name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[1 - most // 2 :]}"
    return f" {name}" if name.startswith("_") else name


def _chart(
    title: str, words: str, draw: Callable[[Any], None], *, note: str = "", size: tuple[float, float] = (5.6, 4.0)
) -> Chart:
    # matplotlib warns of letters that its font lacks, which is no news to who trains.
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", framealpha=0.8)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(title, words, data_uri(file.getvalue(), "image/svg+xml"), note)
