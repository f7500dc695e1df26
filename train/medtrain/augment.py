"""Random changes of training tensors. They act on the result of `medinfer.preprocess`, never in its place."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from medtrain.recipe import Augment

Tensor = npt.NDArray[np.uint8]


def augment(tensor: Tensor, settings: Augment, key: tuple[int, int, int]) -> Tensor:
    """Return a changed copy of one tensor, uint8 (H, W, C).

    Args:
        tensor: uint8 (H, W, C).
        settings: What may change, and how far.
        key: (seed, epoch, index): decides the change, so that neither the number of threads nor a resumed run
            makes another one.
    """
    rng = np.random.default_rng(key)
    changed = _move(tensor, settings, rng)
    if settings.brightness or settings.contrast:
        changed = _tone(settings, rng)[changed]
    return np.ascontiguousarray(changed)


def _move(tensor: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """Flip, rotate, scale and shift in one interpolation; what comes in at the borders is mirrored."""
    # Drawn whether used or not, so that one setting changes nothing else.
    flip_x, flip_y = rng.random(2) < 0.5
    angle, zoom, shift_x, shift_y = rng.uniform(-1, 1, 4)
    if settings.flip_horizontal and flip_x:
        tensor = tensor[:, ::-1]
    if settings.flip_vertical and flip_y:
        tensor = tensor[::-1]
    if not (settings.rotate or settings.scale or settings.shift):
        return tensor
    height, width, channels = tensor.shape
    center = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(center, angle * settings.rotate, 1 + zoom * settings.scale)
    matrix[:, 2] += shift_x * settings.shift * width, shift_y * settings.shift * height
    moved = cv2.warpAffine(
        np.ascontiguousarray(tensor), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8).reshape(height, width, channels)


def _tone(settings: Augment, rng: np.random.Generator) -> Tensor:
    """Return the look-up table of a change in contrast (about mid-grey) and brightness."""
    brightness, contrast = rng.uniform(-1, 1, 2)
    levels = (
        (np.arange(256) - 127.5) * (1 + contrast * settings.contrast) + 127.5 + 255 * brightness * settings.brightness
    )
    table: Tensor = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
    return table
