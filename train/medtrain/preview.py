"""A picture of what the network gets: each image as decoded, preprocessed, and augmented (`medtrain preview`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.files import atomic_file
from medinfer.imaging import preprocess, read_image, to_8_bit
from medtrain.augment import augment
from medtrain.layout import Sample
from medtrain.recipe import Recipe

Picture = npt.NDArray[np.uint8]
GAP = 4
CHANGES = 4


def write_preview(samples: Sequence[Sample], recipe: Recipe, path: Path) -> None:
    """Write a PNG: a row for each sample with the original, the tensor, and four augmentations of it.

    Raises:
        ImageError: A sample cannot be read.
    """
    rows = [_row(sample, recipe) for sample in samples]
    height, width = recipe.input.height, recipe.input.width
    columns = CHANGES + 2
    sheet = np.full((len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = picture
    _, encoded = cv2.imencode(".png", sheet[..., ::-1])
    with atomic_file(path, binary=True) as file:
        file.write(encoded.tobytes())


def choose(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return `count` samples, taking classes in turn."""
    turns = {label: [s for s in samples if s.label == label] for label in sorted({s.label for s in samples})}
    chosen = [own[i] for i in range(count) for own in turns.values() if i < len(own)]
    return chosen[:count]


def _row(sample: Sample, recipe: Recipe) -> list[Picture]:
    image = read_image(sample.path, recipe.input)
    tensor = preprocess(image, recipe.input)
    changed = [augment(tensor, recipe.augment, (recipe.training.seed, epoch, 0)) for epoch in range(CHANGES)]
    original = _fitted(to_8_bit(image, recipe.input.depth16), recipe.input.height, recipe.input.width)
    return [original, *(np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in (tensor, *changed))]


def _fitted(image: Picture, height: int, width: int) -> Picture:
    """Return RGB of the size given, the picture whole and undistorted on white."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    sheet = np.full((height, width, 3), 255, np.uint8)
    sheet[: size[1], : size[0]] = small if small.ndim == 3 else small[..., None]
    return sheet
