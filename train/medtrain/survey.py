"""What each image is: hashes, format, size. One pass, each file read and decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, UsageError
from medinfer.imaging import (
    DICOM_START,
    Image,
    has_few_levels,
    looks_like_dicom,
    preprocess,
    read_file,
    read_header,
    read_image,
)
from medinfer.spec import InputSpec
from medinfer.stream import available_cores, ordered_map
from medtrain.layout import Sample

HASH_SIDE = 16
HASH_BITS = HASH_SIDE * HASH_SIDE
# Of 256 bits; coarse on pictures that are all centred alike: a reason to look, not a verdict.
NEAR_BITS = 10
BLOCK = 2048


@dataclass(frozen=True)
class Facts:
    """What one file turned out to be; `error` says why it cannot be used, and then the rest may be empty."""

    sha256: str = ""
    """Of the bytes."""
    pixels: str = ""
    """sha256 of the decoded pixels and their shape: equal for the same picture in two lossless files."""
    outline: bytes = b""
    """Difference hash, 256 bits: nearly equal for pictures that look alike."""
    format: str = ""
    size: str = ""
    """WIDTHxHEIGHT of the picture as decoded."""
    mode: str = ""
    """gray, rgb or alpha, and the bits of a sample: `gray8`."""
    few_levels: bool = False
    """The tensor has fewer than 16 distinct values."""
    error: str = ""


def survey(samples: Sequence[Sample], spec: InputSpec, step: Callable[[], None] = lambda: None) -> list[Facts]:
    """Return the facts of each sample, in order; `step` is called after each.

    Raises:
        UsageError: An image's decoder is not installed; without it, a class could lose its images unnoticed.
    """

    def look(sample: Sample) -> Facts:
        return _facts(sample, spec)

    facts = []
    for found in ordered_map(look, samples, workers=available_cores()):
        facts.append(found)
        step()
    return facts


def _facts(sample: Sample, spec: InputSpec) -> Facts:
    digest = ""
    try:
        data = read_file(sample.path)
        digest = hashlib.sha256(data).hexdigest()
        image: Any = read_image(data, spec)
        tensor = preprocess(image, spec)  # may refuse it too
        kind, mode = _kind(data)
    except ImageError as error:
        if error.code == "missing_extra":
            raise UsageError(f"{sample.path}: {error.message}", hint=error.hint) from None
        return Facts(sha256=digest, error=f"{error.code}: {error.message}")
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = np.ascontiguousarray(image[..., 0])  # three equal channels are the gray picture
    return Facts(
        sha256=digest,
        pixels=hashlib.sha256(f"{image.shape}{image.dtype}".encode() + image.tobytes()).hexdigest(),
        outline=difference_hash(image),
        format=kind,
        size=f"{image.shape[1]}x{image.shape[0]}",
        mode=mode,
        few_levels=has_few_levels(tensor),
    )


def _kind(data: bytes) -> tuple[str, str]:
    if looks_like_dicom(data[:DICOM_START]):
        return "dicom", "dicom"
    header = read_header(data)
    channels = "alpha" if header.alpha else "gray" if header.channels == 1 else "rgb"
    return header.format, f"{channels}{header.bits}"


def difference_hash(image: Image) -> bytes:
    """Return 256 bits, each telling whether a cell of a 16x16 grid is darker than its right neighbour (dHash)."""
    small: Any = cv2.resize(image, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    gray = small.astype(np.float32).mean(axis=2) if small.ndim == 3 else small.astype(np.float32)
    return np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes()


def near_pairs(facts: Sequence[Facts], bits: int = NEAR_BITS) -> list[tuple[int, int]]:
    """Return the pairs of indices whose difference hashes differ in at most `bits` bits, exact copies included.

    All pairs are compared, as one matrix product a block: 27,000 images take seconds.
    """
    usable = [i for i, found in enumerate(facts) if found.outline and _has_structure(found.outline)]
    if not usable:
        return []
    packed = np.frombuffer(b"".join(facts[i].outline for i in usable), np.uint8).reshape(len(usable), -1)
    signs: npt.NDArray[np.float32] = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(usable), BLOCK):
        product = signs[start : start + BLOCK] @ signs[start:].T
        rows, columns = np.nonzero(product >= HASH_BITS - 2 * bits)
        pairs += [
            (usable[start + row], usable[start + column])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if row < column
        ]
    return pairs


def _has_structure(outline: bytes) -> bool:
    """Tell whether a hash says anything: that of an even surface, or of a plain slope, is nearly all one bit."""
    ones = int.from_bytes(outline).bit_count()
    return 2 * NEAR_BITS < ones < HASH_BITS - 2 * NEAR_BITS
