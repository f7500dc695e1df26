"""One file of a layout, and the pixels that a reader must give."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[Any]


class Case(NamedTuple):
    """A whole file.

    `expected` are the pixels that were written, upright and without alpha; None if the compression loses some, and
    `other`, a second decoder, decides. `options` are of both, `other_options` of the second alone.
    """

    data: bytes
    expected: Pixels | None
    other: str = ""
    tolerance: int = 0
    options: Mapping[str, Any] = MappingProxyType({})
    other_options: Mapping[str, Any] = MappingProxyType({})


Maker = Callable[[Random], Case]
Layouts = list[tuple[str, Maker]]


def size(random: Random, most: int = 130) -> tuple[int, int]:
    """Return a height and a width, some of them very small."""
    return random.randrange(1, random.choice((4, 40, most))), random.randrange(1, random.choice((4, 40, most)))


def by_pillow(pixels: Pixels | Image.Image, kind: str, *, orientation: int = 0, **options: Any) -> bytes:
    """Return a file that Pillow writes, with an EXIF orientation if one is given."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(random: Random, count: int) -> Pixels:
    """Return colors, uint8 (count, 3)."""
    return np.random.default_rng(random.randrange(1 << 30)).integers(0, 256, (count, 3), np.uint8)
