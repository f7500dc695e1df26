"""How good a network is on images, and what is decided for its users once its weights are found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from medinfer import evaluation
from medinfer.agreement import softmax
from medinfer.errors import ImageError, UsageError
from medinfer.evaluation import positives
from medinfer.imaging import preprocess, read_image
from medinfer.intervals import known_patients
from medinfer.labels import Labelled
from medinfer.metrics import Labels, measure
from medinfer.spec import Calibration, ModelSpec
from medtrain.calibration import choose_threshold, fit_temperature, operating_point, targets
from medtrain.dataset import Examples
from medtrain.layout import Sample
from medtrain.limits import choose_limits
from medtrain.network import predict_scored
from medtrain.recipe import Decisions

Array = npt.NDArray[Any]
CHUNK = 64
CALIBRATION = ("ece", "ece_mass", "nll", "brier")


@dataclass(frozen=True)
class Answers:
    """What a network says of a split, and what is known of its images."""

    labels: Labels
    logits: npt.NDArray[np.float32]
    """Raw, float32 (n, classes)."""
    scores: npt.NDArray[np.float32] | None
    """How unlike the training's each image is, float32 (n,); None of a network that cannot tell."""
    patients: Array | None
    """A number for each image's patient, where images share patients."""
    roots: tuple[str, ...]
    """The one of several folders that each image lies under."""

    def positive(self, spec: ModelSpec) -> tuple[Array, Array]:
        """Return which images are positive, bool (n,), and p(positive) by the contract's temperature, float (n,)."""
        return positives(self.labels, self.probabilities(spec), spec.classes, spec.positive)

    def probabilities(self, spec: ModelSpec) -> npt.NDArray[np.float64]:
        """Return what the contract makes of the logits, (n, classes)."""
        return softmax(self.logits, spec.calibration.temperature)


def answer(classifier: nn.Module, examples: Examples, samples: Sequence[Sample]) -> Answers:
    """Have a network answer a split's images."""
    logits, scores = predict_scored(classifier, examples.images)
    return Answers(
        labels=examples.labels,
        logits=logits,
        scores=scores,
        patients=known_patients([sample.patient for sample in samples]),
        roots=tuple(sample.root for sample in samples),
    )


def decide(spec: ModelSpec, validation: Answers, test: Answers, wanted: Decisions) -> ModelSpec:
    """Return a contract with a temperature, limits and thresholds chosen on validation images.

    The thresholds are told with what they do on the test images.

    A threshold that cannot be chosen, because a split has no image of a kind, is left out.
    """
    temperature = fit_temperature(validation.logits, validation.labels)
    spec = replace(spec, calibration=Calibration(temperature=temperature))
    if validation.scores is not None:
        limits = choose_limits(validation.labels, validation.probabilities(spec), validation.scores, wanted)
        spec = replace(spec, abstention=limits)
    if not spec.positive:
        return spec
    found = []
    for target in targets(wanted):
        threshold = choose_threshold(*validation.positive(spec), target)
        if threshold is not None:
            found.append(operating_point(target, threshold, spec.positive, *test.positive(spec), test.patients))
    return replace(spec, operating_points=tuple(point for point in found if point))


def evaluate(answers: Answers, spec: ModelSpec) -> dict[str, Any]:
    """Return what is told of a split as JSON values, and for each folder where there are several.

    `uncalibrated` holds what the probabilities were worth without the temperature.
    """
    probabilities = answers.probabilities(spec)
    measured = evaluation.evaluate(answers.labels, probabilities, spec, answers.patients, scores=answers.scores)
    raw = measure(answers.labels, softmax(answers.logits), spec.classes)
    measured["uncalibrated"] = {key: raw[key] for key in CALIBRATION}
    if len(set(answers.roots)) > 1:
        measured["by_root"] = dict(_by_root(answers, probabilities, spec))
    return measured


def _by_root(answers: Answers, probabilities: Array, spec: ModelSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    for root in sorted(set(answers.roots)):
        chosen = np.array([own == root for own in answers.roots])
        yield root, measure(answers.labels[chosen], probabilities[chosen], spec.classes, spec.positive)


def evaluate_images(
    classifier: nn.Module, spec: ModelSpec, images: Sequence[Labelled], step: Callable[[], None]
) -> tuple[dict[str, Any], int]:
    """Have a checkpoint's network answer images as the runtime would; returns what is told of it, and how many failed.

    Raises:
        UsageError: None of the images can be read.
    """
    answered, logits, scores = [], [], []
    for start in range(0, len(images), CHUNK):
        chunk, tensors = images[start : start + CHUNK], []
        for image in chunk:
            with contextlib.suppress(ImageError):
                tensors.append(preprocess(read_image(image.path, spec.input), spec.input))
                answered.append(image)
            step()
        if tensors:
            raw, residuals = predict_scored(classifier, np.stack(tensors))
            logits.append(raw)
            scores += [] if residuals is None else [residuals]
    if not answered:
        raise UsageError(f"none of {len(images)} images could be read")
    found = Answers(
        labels=np.array([spec.classes.index(image.label) for image in answered]),
        logits=np.concatenate(logits),
        scores=np.concatenate(scores) if scores else None,
        patients=known_patients([image.patient for image in answered]),
        roots=("",) * len(answered),
    )
    return evaluate(found, spec), len(images) - len(answered)
