"""`report.html`: one page, in need of nothing else, about a training run: its data, curves, test and mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from medinfer import __version__
from medinfer.agreement import softmax
from medinfer.command import DISCLAIMER
from medinfer.errors import MissingExtraError
from medinfer.files import atomic_file
from medinfer.spec import ModelSpec
from medtrain import charts
from medtrain.charts import Chart, Curve
from medtrain.dataset import Examples
from medtrain.evaluate import Answers
from medtrain.layout import SPLITS
from medtrain.recipe import Recipe, describe
from medtrain.schedule import learning_rate

try:
    import jinja2
except ImportError:
    raise MissingExtraError("jinja2", "train") from None

Array = npt.NDArray[Any]
# A page, not an atlas: more classes than that have no curves of their own, more pictures are not looked at.
MOST_CURVES, MOST_CLASSES, EACH_CLASS, MOST_MISTAKES, MOST_EXAMPLES = 8, 10, 4, 12, 12
LARGEST_SIDE = 224
HEADLINES = ("accuracy", "balanced_accuracy", "macro_auc", "sensitivity", "specificity")
FIGURES = (*HEADLINES, "macro_average_precision", "brier", "nll", "ece", "ece_mass")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made from."""

    spec: ModelSpec
    recipe: Recipe
    measured: Mapping[str, Any]
    """What stands in metrics.json."""
    train: Examples
    test: Examples
    answers: Answers
    """What the best weights say of the test images."""

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters |= {"figure": _figure, "interval": _interval, "words": _words}
        template = environment.from_string((files("medtrain") / "templates" / "report.html").read_text("utf-8"))
        with atomic_file(path) as file:
            file.write(template.render(self._told()))

    def _told(self) -> dict[str, Any]:
        test = self.measured["test"]
        data = self.measured["data"]
        recipe = dict(describe(self.recipe))
        # A path tells of the machine, and maybe of its user.
        recipe["network"] = {**recipe["network"], "weights": Path(recipe["network"]["weights"]).name}
        found = any(one["kind"] in ("leakage", "drawn-leakage") for one in data["findings"])
        leaks = found and self.recipe.data.on_leak == "allow"
        return {
            "disclaimer": DISCLAIMER,
            "version": __version__,
            "spec": self.spec,
            "recipe": recipe,
            "recipe_text": json.dumps(
                {key: value for key, value in recipe.items() if key not in ("about", "card")}, indent=2
            ),
            "test": test,
            "data": data,
            "splits": [split for split in SPLITS if split in data["counts"]],
            "leaks": leaks,
            "left_out": len(self.spec.classes) - MOST_CURVES,
            "warnings": [one for one in data["findings"] if one["severity"] == "warning"],
            "headlines": [key for key in HEADLINES if test.get(key) is not None],
            "figures": [key for key in FIGURES if test.get(key) is not None],
            "epochs": len(self.measured["history"]),
            "best_epoch": self.measured["best_epoch"],
            "charts": dict(self._charts()),
            "samples": self._samples(),
            "mistakes": self._mistakes(),
            "examples": self._examples(),
        }

    def _charts(self) -> Iterator[tuple[str, list[Chart]]]:
        answers, test, patients = self.answers, self.measured["test"], self.answers.patients
        yield "data", [charts.class_counts(self.measured["data"]["counts"])]
        yield "training", charts.training(self.measured["history"], self._rate, self.measured["best_epoch"])
        yield "confusion", charts.confusion(test["confusion_matrix"], self.spec.classes)
        curves = self._curves()
        both = (charts.receiver_operating_characteristics, charts.precision_recall)
        yield "curves", [draw(curves, patients) for draw in both if curves]
        sides = (softmax(answers.logits), answers.probabilities(self.spec))
        yield "reliability", [charts.reliability(answers.labels, *sides, patients)]
        ill, scores = answers.positive(self.spec)
        points = {point.name: point.threshold for point in self.spec.operating_points}
        shown = bool(self.spec.positive) and ill.any() and not ill.all()
        yield "thresholds", [charts.thresholds(ill, scores, points)] if shown else []

    def _rate(self, epochs: float) -> float:
        """Return the learning rate after so many epochs; it depends on their share of all alone."""
        fine, training = 1000, self.recipe.training
        history = self.measured["history"][: int(epochs)]
        return learning_rate(training, int(epochs * fine), training.epochs * fine, history)

    def _curves(self) -> list[Curve]:
        """Return the curves to draw: of two classes the positive one alone, for the other is its mirror."""
        names = self.spec.classes
        shown = (self.spec.positive or names[1:])[:1] if len(names) == 2 else names[:MOST_CURVES]
        probabilities = self.answers.probabilities(self.spec)
        found = []
        for name in shown:
            i, row = names.index(name), self.measured["test"]["per_class"][name]
            if row["auc"] is not None:
                truth = self.answers.labels == i
                found.append(Curve(name, truth, probabilities[:, i], row["auc"], row["average_precision"]))
        return found

    def _samples(self) -> list[tuple[str, list[Picture]]]:
        """Return training images of each class, spread evenly over it."""
        rows = []
        for i, name in enumerate(self.spec.classes[:MOST_CLASSES]):
            own = np.flatnonzero(self.train.labels == i)
            chosen = own[np.linspace(0, len(own) - 1, min(EACH_CLASS, len(own))).astype(int)] if len(own) else []
            rows.append((name, [_picture(self.train, int(k), f"training image, {name}") for k in chosen]))
        return rows

    def _mistakes(self) -> list[Picture]:
        """Return the test images that were called wrong, the surest first."""
        probabilities = self.answers.probabilities(self.spec)
        called = probabilities.argmax(axis=1)
        wrong = np.flatnonzero(called != self.answers.labels)
        surest = wrong[np.argsort(-probabilities[wrong, called[wrong]], kind="stable")]
        return [self._answered(int(k), probabilities) for k in surest[:MOST_MISTAKES]]

    def _examples(self) -> list[Picture]:
        """Return test images of all classes in turn, drawn by the recipe's seed and not by how well they went."""
        order = np.random.default_rng(self.recipe.training.seed).permutation(len(self.answers.labels))
        turns = [order[self.answers.labels[order] == i] for i in range(len(self.spec.classes))]
        longest = max(map(len, turns))
        chosen = [int(own[k]) for k in range(longest) for own in turns if k < len(own)][:MOST_EXAMPLES]
        probabilities = self.answers.probabilities(self.spec)
        return [self._answered(k, probabilities) for k in chosen]

    def _answered(self, k: int, probabilities: Array) -> Picture:
        called, truth = int(probabilities[k].argmax()), int(self.answers.labels[k])
        names = self.spec.classes
        verdict = "right" if called == truth else f"wrong: it is {names[truth]}"
        return _picture(self.test, k, f"called {names[called]} ({probabilities[k, called]:.3f}), {verdict}")


class Picture(NamedTuple):
    """One image as the network sees it."""

    name: str
    words: str
    source: str
    """A data URI."""


def _picture(examples: Examples, k: int, words: str) -> Picture:
    image = np.ascontiguousarray(examples.images[k][..., ::-1])
    scale = LARGEST_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    # JPEG, for the page is to stay small; nobody measures on a thumbnail.
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return Picture(examples.names[k], words, charts.data_uri(encoded.tobytes(), "image/jpeg"))


def _words(name: str) -> str:
    """Return a metric's key as people write it."""
    return " ".join(word.upper() if word in ("auc", "nll", "ece") else word for word in name.split("_"))


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(found: Any) -> str:
    """Return an interval's ends, of JSON as the metrics have it, or of a pair."""
    if not found:
        return "-"
    low, high = (found["low"], found["high"]) if isinstance(found, Mapping) else found
    return f"{low:.3f} to {high:.3f}"
