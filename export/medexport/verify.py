"""The verdict: does the file, through the runtime that users run, say what the checkpoint says in torch?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medexport.battery import drawn_images, patterns
from medexport.source import Source
from medinfer.agreement import LEAST_SPREAD, Comparison, Logits, compare, softmax
from medinfer.errors import DisagreementError, ImageError, ModelError, UsageError
from medinfer.images import ImageSource, read_file, read_image
from medinfer.inputs import class_of, find_images
from medinfer.model import Model
from medinfer.pixels import preprocess
from medinfer.progress import Progress
from medinfer.spec import Agreement, BeforeAfter, Differences, ModelSpec

BATCHES = (1, 2, 3, 7, 16)
DEFAULT_IMAGES = 64
TORCH_CHUNK = 64


@dataclass(frozen=True)
class ReferenceImages:
    """The images that a verdict is given on."""

    kind: Literal["data", "synthetic"]
    images: Sequence[ImageSource]
    folder: str = ""
    """Where class folders are looked for."""

    @property
    def sha256(self) -> str:
        """Hash over their content, in order."""
        digest = hashlib.sha256()
        for image in self.images:
            if isinstance(image, str | os.PathLike):
                content = read_file(image)
            else:
                content = image.tobytes() if isinstance(image, np.ndarray) else image
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def name(self, position: int) -> str:
        """Return what an image is called in a report."""
        image = self.images[position]
        if isinstance(image, str | os.PathLike):
            return os.fspath(image)
        return str(getattr(image, "source", f"drawn image {position}"))

    def label(self, image: ImageSource, classes: Sequence[str]) -> int | None:
        """Return the index of the class that an image's folder tells, if it does."""
        name = class_of(image, self.folder, classes) if self.folder and isinstance(image, str) else None
        return None if name is None else classes.index(name)


@dataclass(frozen=True)
class Answers:
    """What both sides say of the same images, in the order of the source's classes."""

    images: Sequence[ImageSource]
    positions: Sequence[int]
    """Where they stand among the images named: some of those may be unusable."""
    expected: Logits
    """The checkpoint's, in torch."""
    observed: Logits
    """The file's; a few images more where some were run again to fill every batch size."""

    @property
    def paired(self) -> tuple[Logits, Logits]:
        """Return both, image for image, with those that were run again."""
        return self.expected[np.arange(len(self.observed)) % len(self.expected)], self.observed


def images_of(folder: str | os.PathLike[str] | None, count: int | None = DEFAULT_IMAGES) -> ReferenceImages:
    """Return `count` images (None: all) spread evenly over a folder's, or drawn ones without a folder.

    Raises:
        UsageError: The folder holds no images.
    """
    if folder is None:
        return ReferenceImages("synthetic", drawn_images())
    if not Path(folder).exists():
        raise UsageError(f"{folder}: no such file or folder")
    found = list(find_images(folder))
    if not found:
        raise UsageError(f"{folder}: no images found")
    count = len(found) if count is None else min(count, len(found))
    where = os.fspath(folder) if Path(folder).is_dir() else ""
    return ReferenceImages("data", [found[i * len(found) // count] for i in range(count)], where)


def judge(source: Source, model: Model, reference: ReferenceImages, progress: Progress | None = None) -> Agreement:
    """Compare a model with its source on the images and on fixed patterns, in batches of 1, 2, 3, 7 and 16.

    Raises:
        DisagreementError: They disagree, or the outputs vary too little to tell.
        UsageError: None of the images can be read.
    """
    _insist_on_classes(source.spec, model.spec)
    progress = progress or Progress("", enabled=False)
    progress.total = len(reference.images) * 2
    batches = (model.spec.graph.batch,) if model.spec.graph and model.spec.graph.batch else BATCHES
    answers = _ask(source, model, reference.images, batches, progress)
    if not answers.images:
        raise UsageError(f"none of {len(reference.images)} images can be read")
    battery = _ask(source, model, list(patterns()), batches, progress)
    found, fixed = _compared(source, model, answers), _compared(source, model, battery)
    if not found.is_telling:
        raise DisagreementError(
            f"the logits vary by {found.spread:.2g} over {len(answers.images)} images, under {LEAST_SPREAD}: "
            "any two models would agree",
            hint="Is it trained? Pass images of the task with --data.",
        )
    _insist(found, answers.images, source.spec, model.spec)
    _insist(fixed, battery.images, source.spec, model.spec)
    return Agreement(
        images=reference.kind,
        images_sha256=reference.sha256,
        batches=batches,
        provider=model.provider,
        precision=model.precision,
        differences=_differences(found, answers),
        battery=_differences(fixed, battery),
        operating_point_flips=_decisions_changed(source.spec, *answers.paired),
        **_with_labels(source.spec, reference, answers),
    )


def describe(agreement: Agreement, reference: ReferenceImages) -> str:
    """Return the verdict as a few lines for people; `reference` is what it was given on."""
    found, fixed = agreement.differences, agreement.battery
    images = "images of the data" if agreement.images == "data" else "drawn images"
    lines = [
        f"agrees with the checkpoint on {found.count} {images} and {fixed.count} patterns, in batches of "
        f"{', '.join(map(str, agreement.batches))}: max |dlogit| {found.max_logit:.1e} "
        f"(allowed {found.tolerance:.1e}), mean {found.mean_logit:.1e}, max |dp| {found.max_probability:.1e}, "
        f"{found.label_flips} label flips, {len(found.ties)} ties"
    ]
    lines += [f"tie: {reference.name(position)}" for position in found.ties]
    lines += [f"{name}: {flips} decisions changed" for name, flips in agreement.operating_point_flips.items()]
    for name, pair in (("accuracy", agreement.accuracy), ("macro AUC", agreement.macro_auc)):
        if pair:
            lines.append(f"{name}: checkpoint {pair.checkpoint:.4f}, file {pair.file:.4f}")
    if agreement.images == "synthetic":
        lines.append("Drawn images only: name real ones for a verdict that means more.")
    return "\n".join(lines)


def _insist_on_classes(wanted: ModelSpec, found: ModelSpec) -> None:
    if set(wanted.classes) != set(found.classes):
        raise DisagreementError(f"classes differ: {', '.join(found.classes)} and {', '.join(wanted.classes)}")


def _ask(
    source: Source, model: Model, images: Sequence[ImageSource], batches: Sequence[int], progress: Progress
) -> Answers:
    """Ask both sides about the images that can be used."""
    positions: list[int] = []
    expected: list[Logits] = []
    for start in range(0, len(images), TORCH_CHUNK):
        chunk = images[start : start + TORCH_CHUNK]
        usable, tensors = _preprocessed(source, chunk)
        positions += [start + i for i in usable]
        if usable:
            expected.append(source.logits(np.stack(tensors)))
        progress.step(len(chunk))
    if not positions:
        nothing = np.empty((0, len(source.spec.classes)), np.float32)
        return Answers([], [], nothing, nothing)
    taken = [images[i] for i in positions]
    observed = _observed(model, taken, source.spec.classes, batches, progress)
    return Answers(taken, positions, np.concatenate(expected), observed)


def _preprocessed(source: Source, images: Sequence[ImageSource]) -> tuple[list[int], list[npt.NDArray[np.uint8]]]:
    """Return which images can be used, and their tensors by the checkpoint's own contract, not by the file's."""
    usable, tensors = [], []
    for i, image in enumerate(images):
        try:
            tensors.append(preprocess(read_image(image, source.spec.input), source.spec.input))
        except ImageError:
            continue  # as unusable for the one side as for the other
        usable.append(i)
    return usable, tensors


def _observed(
    model: Model, images: Sequence[ImageSource], classes: Sequence[str], batches: Sequence[int], progress: Progress
) -> Logits:
    """Return the file's logits in the order of `classes`, on every image and at least one batch of each size."""
    queue = islice(cycle(images), max(len(images), sum(batches)))
    rows: list[list[float]] = []
    for size in cycle(batches):
        batch = list(islice(queue, size))
        if not batch:
            return np.array(rows, np.float32)
        try:
            predictions = model.predict_batch(batch)
        except ModelError as error:
            raise DisagreementError(f"the file cannot take what the checkpoint takes: {error}") from None
        for prediction in predictions:
            if prediction.error:
                raise DisagreementError(f"the file refuses an image that the checkpoint takes: {prediction.error}")
            logits = prediction.logits
            rows.append([logits[name] for name in classes])
        progress.step(size)
    raise AssertionError  # cycle() never ends


def _compared(source: Source, model: Model, answers: Answers) -> Comparison:
    expected, observed = answers.paired
    return compare(expected, observed, precision=model.precision, temperature=source.spec.calibration.temperature)


def _insist(found: Comparison, images: Sequence[ImageSource], wanted: ModelSpec, spec: ModelSpec) -> None:
    if found.agrees:
        return
    flips = [images[i % len(images)] for i in found.flips]
    named = ", ".join(str(image) for image in flips if isinstance(image, str | os.PathLike))[:300]
    contracts = differing_fields(wanted, spec)
    raise DisagreementError(
        f"the exported model disagrees with the checkpoint: max |dlogit| {found.max_difference:.2g} "
        f"(allowed {found.tolerance:.2g}), {len(flips)} label flips of {len(images)} images"
        + (f", such as {named}" if named else "")
        + (f"; their contracts differ in {', '.join(contracts)}" if contracts else ""),
        hint="--bisect names the first node that differs." if not contracts else "",
    )


def differing_fields(wanted: ModelSpec, found: ModelSpec) -> list[str]:
    """Return the fields, of those that decide an answer, in which two contracts differ."""
    fields = [
        f"input.{name}" for name in vars(wanted.input) if getattr(wanted.input, name) != getattr(found.input, name)
    ]
    return fields + [name for name in ("classes", "calibration") if getattr(wanted, name) != getattr(found, name)]


def _differences(found: Comparison, answers: Answers) -> Differences:
    count = len(answers.images)
    return Differences(
        count=count,
        logit_spread=_rounded(found.spread),
        tolerance=_rounded(found.tolerance),
        max_logit=_rounded(found.max_difference),
        mean_logit=_rounded(found.mean_difference),
        max_probability=_rounded(found.max_probability_difference),
        label_flips=len(found.flips),
        ties=tuple(sorted({answers.positions[i % count] for i in found.ties})),
    )


def _decisions_changed(spec: ModelSpec, expected: Logits, observed: Logits) -> dict[str, int]:
    """Return, for each operating point, on how many images the file decides otherwise."""
    sides = [softmax(logits, spec.calibration.temperature) for logits in (expected, observed)]
    changed = {}
    for point in spec.operating_points:
        indices = [spec.classes.index(name) for name in point.positive]
        before, after = (side[:, indices].sum(axis=1) >= point.threshold for side in sides)
        changed[point.name] = int(np.count_nonzero(before != after))
    return changed


def _with_labels(spec: ModelSpec, reference: ReferenceImages, answers: Answers) -> dict[str, BeforeAfter]:
    """Return accuracy and AUC of both sides on the images whose folders tell their classes."""
    told = [reference.label(image, spec.classes) for image in answers.images]
    rows = [i for i, label in enumerate(told) if label is not None]
    if not rows:
        return {}
    from medinfer.metrics import measure

    labels = np.array([told[i] for i in rows], np.int64)
    before, after = (
        measure(labels, softmax(logits[rows], spec.calibration.temperature), spec.classes)
        for logits in (answers.expected, answers.observed)
    )
    return {
        name: BeforeAfter(checkpoint=round(before[name], 6), file=round(after[name], 6))
        for name in ("accuracy", "macro_auc")
        if before[name] is not None and after[name] is not None
    }


def _rounded(value: float) -> float:
    """Keep three digits: more would tell of the processor's rounding rather than of the model."""
    return float(f"{value:.2e}")
