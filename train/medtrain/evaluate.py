"""How good a network is on images, and what is decided for its users once its weights are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from medinfer.agreement import softmax
from medinfer.intervals import known_patients
from medinfer.metrics import Labels, measure
from medinfer.spec import Calibration, ModelSpec
from medinfer.uncertainty import intervals
from medtrain.calibration import choose_threshold, fit_temperature, name_of, operating_point, targets
from medtrain.dataset import Examples
from medtrain.layout import Sample
from medtrain.network import predict_logits
from medtrain.recipe import Decisions

Array = npt.NDArray[Any]
CALIBRATION = ("ece", "ece_mass", "nll", "brier")


@dataclass(frozen=True)
class Answers:
    """What a network says of a split, and what is known of its images."""

    labels: Labels
    logits: npt.NDArray[np.float32]
    """Raw, float32 (n, classes)."""
    patients: Array | None
    """A number for each image's patient, where images share patients."""
    roots: tuple[str, ...]
    """The one of several folders that each image lies under."""

    def positive(self, spec: ModelSpec) -> tuple[Array, Array]:
        """Return which images are positive, bool (n,), and p(positive) by the contract's temperature, float (n,)."""
        chosen = [spec.classes.index(name) for name in spec.positive]
        probabilities = softmax(self.logits, spec.calibration.temperature)
        return np.isin(self.labels, chosen), probabilities[:, chosen].sum(axis=1)


def answer(classifier: nn.Module, examples: Examples, samples: Sequence[Sample]) -> Answers:
    """Have a network answer a split's images."""
    return Answers(
        labels=examples.labels,
        logits=predict_logits(classifier, examples.images),
        patients=known_patients([sample.patient for sample in samples]),
        roots=tuple(sample.root for sample in samples),
    )


def decide(spec: ModelSpec, validation: Answers, test: Answers, wanted: Decisions) -> ModelSpec:
    """Return a contract with a temperature and thresholds chosen on validation images, told with what they do on test.

    A threshold that cannot be chosen, because a split has no image of a kind, is left out.
    """
    temperature = fit_temperature(validation.logits, validation.labels)
    spec = replace(spec, calibration=Calibration(temperature=temperature))
    if not spec.positive:
        return spec
    found = []
    for target in targets(wanted):
        threshold = choose_threshold(*validation.positive(spec), target)
        if threshold is not None:
            found.append(operating_point(target, threshold, spec.positive, *test.positive(spec), test.patients))
    return replace(spec, operating_points=tuple(point for point in found if point))


def evaluate(answers: Answers, spec: ModelSpec) -> dict[str, Any]:
    """Return all metrics of a split as JSON values, with intervals, and for each folder where there are several.

    `uncalibrated` holds what the probabilities were worth without the temperature, `operating_points` the sensitivity
    and specificity of each.
    """
    probabilities = softmax(answers.logits, spec.calibration.temperature)
    measured = measure(answers.labels, probabilities, spec.classes, spec.positive)
    ranges = intervals(answers.labels, probabilities, spec.classes, spec.positive, answers.patients)
    raw = measure(answers.labels, softmax(answers.logits), spec.classes)
    measured |= {"intervals": ranges, "uncalibrated": {key: raw[key] for key in CALIBRATION}}
    if spec.operating_points:
        measured["operating_points"] = dict(_points(answers, spec))
    if len(set(answers.roots)) > 1:
        measured["by_root"] = dict(_by_root(answers, probabilities, spec))
    return measured


def _points(answers: Answers, spec: ModelSpec) -> Iterator[tuple[str, Mapping[str, Any]]]:
    truth = answers.positive(spec)
    for point in spec.operating_points:
        again = operating_point(point.target, point.threshold, point.positive, *truth, answers.patients)
        if again:
            told = again.to_json()
            kept = ("threshold", "sensitivity", "sensitivity_interval", "specificity", "specificity_interval")
            yield name_of(point.target), {key: told[key] for key in kept}


def _by_root(answers: Answers, probabilities: Array, spec: ModelSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    for root in sorted(set(answers.roots)):
        chosen = np.array([own == root for own in answers.roots])
        yield root, measure(answers.labels[chosen], probabilities[chosen], spec.classes, spec.positive)
