"""Golden samples: tiny synthetic images that travel in the file with the tensors and logits they must give.

Replaying them tells on any machine, in about a second, whether this build of OpenCV still makes the same pixels and
this provider the same answers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.agreement import Comparison, Scores, compare, compare_scores
from medinfer.errors import ImageError, ModelError
from medinfer.imaging import Image, preprocess, read_image
from medinfer.model import Model
from medinfer.prediction import Prediction
from medinfer.spec import GoldenSample, InputSpec

# OpenCV's kernels may round one grey level differently from one build or processor to the next.
ALLOWED_LEVELS = 1
MOST_BYTES = 2 << 20


@dataclass(frozen=True)
class GoldenReport:
    """What a replay found."""

    samples: int
    max_level_difference: int
    """Largest difference of a preprocessed pixel from the stored tensor, in grey levels."""
    differing_pixels: float
    """Share of tensor elements that are not exactly equal."""
    comparison: Comparison
    """The model's logits on the stored images against the checkpoint's; of int8, against its own at the export."""
    max_score_difference: float | None
    """Largest difference of a score of unlike images; None of a model that gives none."""
    scores_agree: bool
    """Whether each of them is within the tolerance of what ran."""

    @property
    def passes(self) -> bool:
        """Whether pixels are within one grey level, logits and scores within the tolerance of what ran."""
        return self.max_level_difference <= ALLOWED_LEVELS and self.comparison.agrees and self.scores_agree

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        found = self.comparison
        return {
            "passes": self.passes,
            "samples": self.samples,
            "max_level_difference": self.max_level_difference,
            "differing_pixels": self.differing_pixels,
            # JSON knows no infinity: an answer that is no number has none.
            "max_logit_difference": found.max_difference if np.isfinite(found.max_difference) else None,
            "tolerance": found.tolerance,
            "max_probability_difference": (
                found.max_probability_difference if np.isfinite(found.max_probability_difference) else None
            ),
            "label_flips": len(found.flips),
            "max_ood_score_difference": (
                None
                if self.max_score_difference is None or not np.isfinite(self.max_score_difference)
                else self.max_score_difference
            ),
        }

    def as_text(self) -> str:
        """Return the figures as lines for people."""
        found = self.comparison
        return (
            f"{self.samples} golden samples\n"
            f"pixels: at most {self.max_level_difference} grey levels off, {self.differing_pixels:.2%} not exact\n"
            f"logits: at most {found.max_difference:.2g} off, allowed {found.tolerance:.2g}; {len(found.flips)} flips\n"
            f"probabilities: at most {found.max_probability_difference:.2g} off, "
            f"allowed {found.probability_tolerance:.2g}"
            + ("" if self.max_score_difference is None else f"\nscores: at most {self.max_score_difference:.2g} off")
        )


def golden_images(min_side: int = 1) -> list[npt.NDArray[np.uint8]]:
    """Return the source images: small, smooth, of different sizes and aspects, RGB; the same on every machine.

    Sides are at least `min_side`.
    """
    images = []
    for height, width, turns in ((24, 32, 1), (40, 28, 2), (33, 33, 3)):
        y, x = np.mgrid[0:height, 0:width].astype(np.int64)
        # Integer arithmetic only, so that no processor's sine or rounding has a say.
        planes = [(x * 7 * turns + y * 3 * k + (x * y * k) // 5) % 511 for k in (1, 2, 3)]
        image = np.stack([np.where(p > 255, 510 - p, p) for p in planes], axis=2).astype(np.uint8)
        images.append(enlarged(image, min_side))
    return images


def enlarged(image: npt.NDArray[np.uint8], min_side: int) -> npt.NDArray[np.uint8]:
    """Return an image with each pixel repeated until its sides are at least `min_side`."""
    times = -(-min_side // min(image.shape[:2]))
    return np.repeat(np.repeat(image, times, axis=0), times, axis=1) if times > 1 else image


def make_golden(
    images: Sequence[npt.NDArray[np.uint8]],
    logits: npt.NDArray[np.float32],
    spec: InputSpec,
    scores: Scores | None = None,
) -> tuple[GoldenSample, ...]:
    """Return the samples for images (uint8 RGB) and the checkpoint's logits on them, float32 (images, classes).

    `scores` is how unlike the training's it finds each, float32 (images,), if it can tell. As many samples as
    `MOST_BYTES` hold, and one at least: the tensors of large inputs are large.
    """
    samples: list[GoldenSample] = []
    left = MOST_BYTES
    told = [None] * len(images) if scores is None else scores.tolist()
    for image, row, score in zip(images, logits, told, strict=True):
        tensor = _to_png(preprocess(image, spec))
        left -= len(tensor)
        if samples and left < 0:
            break
        samples.append(
            GoldenSample(
                image=_to_png(image), tensor=tensor, logits=tuple(float(value) for value in row), ood_score=score
            )
        )
    return tuple(samples)


def with_own_answers(model: Model, samples: Sequence[GoldenSample]) -> tuple[GoldenSample, ...]:
    """Return the samples with what a model itself answers: where that is not meant to be the checkpoint's, of int8."""
    images = [_from_png(sample.image, model.spec.input, f"golden[{i}].image") for i, sample in enumerate(samples)]
    return tuple(
        replace(sample, own_logits=tuple(map(float, one.logits.values())), own_ood_score=one.ood_score)
        for sample, one in zip(samples, model.predict_batch(images), strict=True)
    )


def verify(model: Model) -> GoldenReport:
    """Replay a model's golden samples on its provider.

    Raises:
        ModelError: The file carries none, or they are damaged.
    """
    samples = model.spec.golden or ()
    if not samples:
        raise ModelError(f"{model.path}: no golden samples in it", hint="Export it again: medexport onnx ckpt.pt")
    own = model.precision == "int8"
    if own and any(sample.own_logits is None for sample in samples):
        raise ModelError(f"{model.path}: its golden samples lack what an int8 file itself answered at its export")
    spec = model.spec.input
    images = [_from_png(sample.image, spec, f"golden[{i}].image") for i, sample in enumerate(samples)]
    stored = np.stack([_stored_tensor(sample, spec, i) for i, sample in enumerate(samples)])
    made = np.stack([preprocess(image, spec) for image in images])
    difference = np.abs(made.astype(np.int16) - stored)
    predictions = model.predict_batch(images)
    # An answer that is no number is no agreement, rather than an error of its own.
    nothing = [float("nan")] * len(model.classes)
    observed = np.array([nothing if p.error else list(p.logits.values()) for p in predictions], np.float32)
    answered = np.array([nothing if p.error else list(p.probabilities.values()) for p in predictions], np.float32)
    reference = np.array([sample.own_logits if own else sample.logits for sample in samples], np.float32)
    difference_of_scores, scores_agree = _scores(samples, predictions, model.precision)
    return GoldenReport(
        samples=len(samples),
        max_level_difference=int(difference.max()),
        differing_pixels=float(np.count_nonzero(difference) / difference.size),
        comparison=compare(
            reference,
            observed,
            answered,
            precision=model.precision,
            temperature=model.spec.calibration.temperature,
            replayed=own,
        ),
        max_score_difference=difference_of_scores,
        scores_agree=scores_agree,
    )


def _scores(
    samples: Sequence[GoldenSample], predictions: Sequence[Prediction], precision: str
) -> tuple[float | None, bool]:
    own = precision == "int8"
    told = [sample.own_ood_score if own else sample.ood_score for sample in samples]
    if None in told:
        return None, True
    found = [None if one.error else one.ood_score for one in predictions]
    observed = np.array([float("nan") if one is None else one for one in found], np.float32)
    return compare_scores(np.array(told, np.float32), observed, precision, replayed=own)


def _to_png(image: npt.NDArray[np.uint8]) -> str:
    ok, encoded = cv2.imencode(".png", image[..., ::-1] if image.shape[2] == 3 else image)
    if not ok:
        raise ModelError("a golden sample could not be written as PNG")
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _from_png(text: str, spec: InputSpec, field: str) -> Image:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ModelError(f"{field}: not base64") from None
    try:
        return read_image(data, spec, max_pixels=1 << 26)
    except ImageError as error:
        raise ModelError(f"{field}: {error}") from None


def _stored_tensor(sample: GoldenSample, spec: InputSpec, index: int) -> npt.NDArray[np.uint8]:
    tensor: npt.NDArray[Any] = np.atleast_3d(_from_png(sample.tensor, spec, f"golden[{index}].tensor"))
    if tensor.shape != (spec.height, spec.width, spec.channels) or tensor.dtype != np.uint8:
        raise ModelError(f"golden[{index}].tensor: {tensor.dtype} {tensor.shape} does not fit the contract's input")
    return tensor
