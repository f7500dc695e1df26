"""What the checkpoint and the file say of the same images, side by side: what the verdict is given on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from medexport.reference import ReferenceImages
from medexport.source import Source
from medinfer.agreement import Logits, Scores
from medinfer.errors import CheckpointError, DisagreementError, ImageError, ModelError, UsageError
from medinfer.imaging import ImageSource, preprocess, read_file, read_image
from medinfer.model import Model
from medinfer.prediction import Prediction
from medinfer.progress import Progress

TORCH_CHUNK = 64


@dataclass(frozen=True)
class Answers:
    """What both sides say of the same images, in the order of the source's classes; float32 (images, classes)."""

    positions: Sequence[int]
    """Where the images stand among those named: some of those may be unusable."""
    sha256: str
    """Hash over their content, in order."""
    expected: Logits
    """The checkpoint's logits, in torch."""
    logits: Logits
    """The file's; a few rows more, where images were run again to fill every batch size."""
    probabilities: Logits
    """The file's, which its labels and decisions come from; as many rows as `logits`."""
    expected_scores: Scores | None
    """How unlike the training's the checkpoint finds each image, float32 (images,); None if it cannot tell."""
    scores: Scores | None
    """The file's; as many as `logits`."""

    def repeated(self, expected: Logits) -> Logits:
        """Return what the checkpoint says, one row an image, row for row beside what the file says."""
        return expected[np.arange(len(self.logits)) % len(self.expected)]


def ask(
    source: Source, model: Model, reference: ReferenceImages, batches: Sequence[int], progress: Progress
) -> Answers:
    """Ask both sides about the images that can be used; raises UsageError if none can."""
    positions: list[int] = []
    expected: list[Logits] = []
    expected_scores: list[Scores] = []
    digest = hashlib.sha256()
    for start in range(0, len(reference.images), TORCH_CHUNK):
        chunk = reference.images[start : start + TORCH_CHUNK]
        usable, tensors = _preprocessed(source, chunk, digest)
        positions += [start + i for i in usable]
        if usable:
            logits, scores = source.scored(np.stack(tensors))
            expected.append(logits)
            expected_scores += [] if scores is None else [scores]
        progress.step(len(chunk))
    if not positions:
        raise UsageError(f"none of {len(reference.images)} images can be read")
    answers = np.concatenate(expected)
    if not all(np.isfinite(side).all() for side in (answers, *expected_scores)):
        raise CheckpointError("the checkpoint answers NaN or infinity", hint="Did its training diverge?")
    images = [reference.images[i] for i in positions]
    seen = _observed(model, images, batches, progress)
    logits, probabilities = (
        np.array([[getattr(one, kind)[name] for name in source.spec.classes] for one in seen], np.float32)
        for kind in ("logits", "probabilities")
    )
    if not expected_scores:
        return Answers(positions, digest.hexdigest(), answers, logits, probabilities, None, None)
    told = [one.ood_score for one in seen]
    if None in told:
        raise DisagreementError(
            "the checkpoint knows how unlike an image is, and the file does not say", hint="Export it."
        )
    observed = np.array(told, np.float32)
    return Answers(
        positions, digest.hexdigest(), answers, logits, probabilities, np.concatenate(expected_scores), observed
    )


def _preprocessed(
    source: Source, images: Sequence[ImageSource], digest: Any
) -> tuple[list[int], list[npt.NDArray[np.uint8]]]:
    """Return which images can be used, and their tensors by the checkpoint's own contract, not by the file's."""
    usable, tensors = [], []
    for i, image in enumerate(images):
        try:
            content = read_file(image) if isinstance(image, str | os.PathLike) else image
            tensors.append(preprocess(read_image(content, source.spec.input), source.spec.input))
        except ImageError:
            continue  # as unusable for the one side as for the other
        digest.update(hashlib.sha256(content.tobytes() if isinstance(content, np.ndarray) else content).digest())
        usable.append(i)
    return usable, tensors


def _observed(
    model: Model, images: Sequence[ImageSource], batches: Sequence[int], progress: Progress
) -> list[Prediction]:
    """Return the file's answers on every image, and in at least one batch of each size."""
    queue = islice(cycle(images), max(len(images), sum(batches)))
    answers: list[Prediction] = []
    for size in cycle(batches):
        batch = list(islice(queue, size))
        if not batch:
            return answers
        try:
            predictions = model.predict_batch(batch)
        except ModelError as error:
            raise DisagreementError(f"the file cannot take what the checkpoint takes: {error}") from None
        for seen in predictions:
            if seen.error:
                raise DisagreementError(f"the file refuses an image that the checkpoint takes: {seen.error}")
        answers += predictions
        progress.step(len(batch))
    raise AssertionError  # cycle() never ends
