"""The verdict: does the file, through the runtime that users run, say what the checkpoint says in torch?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medexport.source import Source
from medinfer.agreement import LEAST_SPREAD, Comparison, compare
from medinfer.errors import DisagreementError, ImageError, UsageError
from medinfer.images import ImageSource, read_file, read_image
from medinfer.inputs import find_images
from medinfer.model import Model
from medinfer.pixels import preprocess
from medinfer.spec import Agreement
from medtrain.phantom import CLASSES, draw_cell

BATCHES = (1, 2, 3, 7)
DEFAULT_IMAGES = 64
BATTERY_SEED, BATTERY_CELLS = 2026, 48


@dataclass(frozen=True)
class ReferenceImages:
    """The images that a verdict is given on."""

    kind: str
    """`data` or `synthetic`."""
    images: Sequence[ImageSource]

    @property
    def sha256(self) -> str:
        """Hash over their content, in order."""
        digest = hashlib.sha256()
        for image in self.images:
            content = image.tobytes() if isinstance(image, np.ndarray) else read_file(str(image))
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def images_of(folder: str | os.PathLike[str] | None, count: int | None = DEFAULT_IMAGES) -> ReferenceImages:
    """Return `count` images (None: all) spread evenly over a folder's, or the synthetic battery without a folder.

    Raises:
        UsageError: The folder holds no images.
    """
    if folder is None:
        return ReferenceImages("synthetic", list(_battery()))
    if not Path(folder).exists():
        raise UsageError(f"{folder}: no such file or folder")
    found = list(find_images(folder))
    if not found:
        raise UsageError(f"{folder}: no images found")
    count = len(found) if count is None else min(count, len(found))
    return ReferenceImages("data", [found[i * len(found) // count] for i in range(count)])


def judge(source: Source, model: Model, reference: ReferenceImages) -> Agreement:
    """Compare a model with its source, in batches of 1, 2, 3 and 7.

    Raises:
        DisagreementError: They disagree, or the outputs vary too little to tell.
        UsageError: None of the images can be read.
    """
    if set(model.classes) != set(source.spec.classes):
        raise DisagreementError(f"classes differ: {', '.join(model.classes)} and {', '.join(source.spec.classes)}")
    usable, tensors = _preprocessed(source, reference)
    expected = source.logits(tensors)
    observed = _observed(model, usable, source.spec.classes)
    temperature = source.spec.calibration.temperature
    # More answers than images where a few are run again to fill the batches.
    expected = expected[np.arange(len(observed)) % len(expected)]
    found = compare(expected, observed, temperature=temperature)
    _insist(found, usable)
    return Agreement(
        images="synthetic" if reference.kind == "synthetic" else "data",
        images_sha256=reference.sha256,
        count=len(usable),
        batches=BATCHES,
        provider=model.provider,
        precision="fp32",
        logit_spread=_rounded(found.spread),
        tolerance=_rounded(found.tolerance),
        max_logit_difference=_rounded(found.max_difference),
        mean_logit_difference=_rounded(found.mean_difference),
        max_probability_difference=_rounded(found.max_probability_difference),
        label_flips=len(found.flips),
        ties=len(found.ties),
    )


def describe(agreement: Agreement) -> str:
    """Return the verdict as a sentence."""
    images = "images of the data" if agreement.images == "data" else "synthetic images"
    return (
        f"agrees with the checkpoint on {agreement.count} {images} in batches of "
        f"{', '.join(map(str, agreement.batches))}: max |dlogit| {agreement.max_logit_difference:.1e} "
        f"(allowed {agreement.tolerance:.1e}), {agreement.label_flips} label flips, {agreement.ties} ties"
    )


def _preprocessed(source: Source, reference: ReferenceImages) -> tuple[list[ImageSource], npt.NDArray[np.uint8]]:
    """Return the images that can be used, and their tensors by the checkpoint's own contract, not by the file's."""
    usable, tensors = [], []
    for image in reference.images:
        try:
            tensors.append(preprocess(read_image(image, source.spec.input), source.spec.input))
        except ImageError:
            continue  # as unusable for the one side as for the other
        usable.append(image)
    if not usable:
        raise UsageError(f"none of {len(reference.images)} images can be read")
    return usable, np.stack(tensors)


def _observed(model: Model, images: Sequence[ImageSource], classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the file's logits in the order of `classes`, on every image and at least one batch of each size."""
    queue = islice(cycle(images), max(len(images), sum(BATCHES)))
    rows: list[list[float]] = []
    for size in cycle(BATCHES):
        batch = list(islice(queue, size))
        if not batch:
            return np.array(rows, np.float32)
        for prediction in model.predict_batch(batch):
            if prediction.error:
                raise DisagreementError(f"the file refuses an image that the checkpoint takes: {prediction.error}")
            logits = prediction.logits
            rows.append([logits[name] for name in classes])
    raise AssertionError  # cycle() never ends


def _insist(found: Comparison, images: Sequence[ImageSource]) -> None:
    if not found.is_telling:
        raise DisagreementError(
            f"the logits vary by {found.spread:.2g} over {len(images)} images, under {LEAST_SPREAD}: "
            "any two models would agree",
            hint="Is it trained? Pass images of the task with --data.",
        )
    if found.agrees:
        return
    flips = ", ".join(str(images[i % len(images)]) for i in found.flips[:3] if isinstance(images[i % len(images)], str))
    raise DisagreementError(
        f"the exported model disagrees with the checkpoint: max |dlogit| {found.max_difference:.2g} "
        f"(allowed {found.tolerance:.2g}), {len(found.flips)} label flips of {len(images)} images"
        + (f", such as {flips}" if flips else ""),
        hint="No file was written.",
    )


def _rounded(value: float) -> float:
    """Keep three digits: more would tell of the processor's rounding rather than of the model."""
    return float(f"{value:.2e}")


def _battery() -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the synthetic images: drawn cells, and patterns that stress every path of the preprocessing."""
    for index in range(BATTERY_CELLS):
        yield draw_cell(BATTERY_SEED, index, CLASSES[index % len(CLASSES)])
    noise = np.random.default_rng(BATTERY_SEED).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 160).astype(np.uint8)
    yield np.zeros((50, 60, 3), np.uint8)
    yield np.full((60, 50, 3), 255, np.uint8)
    yield noise
    yield noise[..., 0]  # gray
    yield np.repeat(np.repeat(noise[:12, :16], 20, axis=0), 20, axis=1)  # coarse blocks, larger than most inputs
    yield np.stack([np.tile(ramp, (100, 1)), np.tile(ramp[::-1], (100, 1)), np.full((100, 160), 128, np.uint8)], axis=2)
    yield (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)  # checkerboard
    yield noise[:1, :1]
    yield noise[:2, :]
