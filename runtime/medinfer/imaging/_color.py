"""Channels after decoding: alpha, CMYK, orientation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

STRIP_PIXELS = 1 << 16


def compose(color: npt.NDArray[Any], alpha: npt.NDArray[Any], background: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Return floor(a c + (1 - a) b + 0.5) per channel, a = alpha / its maximum; (H, W, 3) of the dtype of `color`."""
    color = color if color.ndim == 3 else cv2.cvtColor(np.ascontiguousarray(color), cv2.COLOR_GRAY2RGB)
    top = int(np.iinfo(color.dtype).max)
    behind = np.array(background, np.float64) * (top // 255)  # 65535 = 255 * 257
    composed = np.empty_like(color)
    # In strips: as floats, the largest image allowed would take 7 GB.
    height = max(1, STRIP_PIXELS // color.shape[1])
    for start in range(0, len(color), height):
        rows = slice(start, start + height)
        weight = (alpha[rows] / top)[..., None]
        composed[rows] = np.floor(color[rows] * weight + behind * (1 - weight) + 0.5)
    return composed


def from_adobe_cmyk(cmyk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return RGB (H, W, 3) of the CMYK (H, W, 4) of a JPEG, which Adobe stores inverted: k - ((255 - c) k >> 8)."""
    key = cmyk[..., 3:].astype(np.int32)
    return (key - ((255 - cmyk[..., :3].astype(np.int32)) * key >> 8)).astype(np.uint8)


def upright(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Undo an EXIF orientation (1..8); C-contiguous."""
    if orientation >= 5:
        image = np.swapaxes(image, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(image, flips))


def swap_red_and_blue(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exchange the first and the third channel of (H, W, 3)."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB)
