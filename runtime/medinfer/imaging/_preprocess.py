"""Pixels -> the tensor that the model takes: THE one implementation, used in training, export and inference alike.

Pure functions of an image and an `InputSpec`. The order is fixed: 16 -> 8 bit, colour, size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging._limits import MAX_PIXELS
from medinfer.imaging._read import Image
from medinfer.spec import CropFit, Depth16, InputSpec, PadFit

FEW_LEVELS = 16
_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}


def preprocess(image: Image, spec: InputSpec, *, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """Return the tensor of one image.

    Args:
        image: uint8 or uint16, (H, W, 3) RGB or (H, W) gray, as `read_image` returns it.
        spec: The contract's `input`.
        out: Where to write, C-contiguous (spec.height, spec.width, spec.channels); made if not given.

    Returns:
        uint8 (spec.height, spec.width, spec.channels).

    Raises:
        ImageError: `too_small` for spec.min_side, or `too_large` once scaled (an extreme aspect before a crop).
    """
    if out is None:
        out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    pixels = _at_its_size(image, spec)
    # A gray tensor has a channel axis that OpenCV does not know.
    target = out[..., 0] if spec.channels == 1 else out
    if isinstance(spec.fit, CropFit):
        _crop(pixels, spec, target)
    elif isinstance(spec.fit, PadFit):
        _pad(pixels, spec, target)
    else:
        _resize(pixels, spec, target)
    return out


def without_resize(image: Image, spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return an image as a graph takes it that resizes within: uint8 (H, W, spec.channels) of the image's own size.

    Raises:
        ImageError: `too_small` for spec.min_side.
    """
    pixels = _at_its_size(image, spec)
    return np.ascontiguousarray(pixels[..., None] if spec.channels == 1 else pixels)


def _at_its_size(image: Image, spec: InputSpec) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    if min(height, width) < spec.min_side:
        raise ImageError("too_small", f"{width}x{height} pixels; the model wants sides of at least {spec.min_side}")
    return _to_color(to_8_bit(image, spec.depth16), spec)


def to_8_bit(image: Image, rule: Depth16) -> npt.NDArray[np.uint8]:
    """Return 16-bit samples as 8-bit ones, by the contract's rule; 8-bit ones as they are."""
    if image.dtype == np.uint8:
        return image  # type: ignore[return-value]
    if rule.rule == "high_byte":
        return (image >> 8).astype(np.uint8)
    result: npt.NDArray[np.uint8] = _range_table(rule)[image]
    return result


@lru_cache(maxsize=8)
def _range_table(rule: Depth16) -> npt.NDArray[np.uint8]:
    """Return floor(255 x + 0.5), x = clip((v - low) / (high - low), 0, 1), for each of the 65536 values."""
    if rule.low is None or rule.high is None:  # excluded by Depth16.check
        raise AssertionError(rule)
    position = np.clip((np.arange(65536.0) - rule.low) / (rule.high - rule.low), 0, 1)
    table = np.floor(255 * position + 0.5).astype(np.uint8)
    table.setflags(write=False)  # shared by every caller
    return table


def _to_color(image: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[Any]:
    if spec.color == "gray":
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _resize(image: npt.NDArray[Any], spec: InputSpec, target: npt.NDArray[np.uint8]) -> None:
    """Resize into `target`, whatever its strides."""
    height, width = target.shape[:2]
    if image.shape[:2] == (height, width):
        np.copyto(target, image)
    elif target.flags.c_contiguous:
        cv2.resize(image, (width, height), dst=target, interpolation=_INTERPOLATION[spec.interpolation])
    else:
        np.copyto(target, cv2.resize(image, (width, height), interpolation=_INTERPOLATION[spec.interpolation]))


def has_few_levels(tensor: npt.NDArray[np.uint8]) -> bool:
    """Tell whether a tensor has fewer than 16 distinct values: a flat image, or a window that does not fit it."""
    if len(set(tensor[len(tensor) // 2].tobytes())) >= FEW_LEVELS:  # the row in the middle acquits nearly every image
        return False
    counts = cv2.calcHist([tensor.reshape(-1, 1)], [0], None, [256], [0, 256])
    return int(np.count_nonzero(counts)) < FEW_LEVELS


def scaled_sides(height: int, width: int, spec: InputSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) that a crop or pad scales an image to, and (y, x) where the cut or the image begins."""
    if isinstance(spec.fit, CropFit):
        # Integers, not floats: floor(320 * 512 / 512) must be 320 whatever the rounding of a division.
        height, width = (spec.fit.crop.resize * side // min(height, width) for side in (height, width))
        return (height, width), ((height - spec.height) // 2, (width - spec.width) // 2)
    assert isinstance(spec.fit, PadFit)
    scale = min(spec.height / height, spec.width / width)
    height, width = (max(1, int(scale * side + 0.5)) for side in (height, width))
    middle = spec.fit.pad.anchor == "center"
    return (height, width), ((spec.height - height) // 2 * middle, (spec.width - width) // 2 * middle)


def _crop(image: npt.NDArray[Any], spec: InputSpec, target: npt.NDArray[np.uint8]) -> None:
    (height, width), (top, left) = scaled_sides(image.shape[0], image.shape[1], spec)
    if height * width > MAX_PIXELS:
        raise ImageError("too_large", f"{width}x{height} pixels once scaled: the image is too long for a crop")
    scaled = np.empty((height, width, *image.shape[2:]), np.uint8)
    _resize(image, spec, scaled)
    np.copyto(target, scaled[top : top + spec.height, left : left + spec.width])


def _pad(image: npt.NDArray[Any], spec: InputSpec, target: npt.NDArray[np.uint8]) -> None:
    assert isinstance(spec.fit, PadFit)
    (height, width), (top, left) = scaled_sides(image.shape[0], image.shape[1], spec)
    target[...] = spec.fit.pad.value
    _resize(image, spec, target[top : top + height, left : left + width])
