"""WebP by libwebp's encoder in Pillow."""

from __future__ import annotations

import io
from random import Random

import numpy as np
from PIL import Image

from benchmarks.decoding.images import image as real_image, ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, by_pillow, size
from benchmarks.decoding.strict import upright


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made: Layouts = []
    for alpha in (False, True):
        end = " and alpha" if alpha else ""
        made += [(f"WebP lossless RGB{end}", _lossless(alpha))] * 8
        made += [(f"WebP lossy RGB{end}", _lossy(alpha))] * 8
    made += [("WebP orientations", _lossless(False, turn)) for turn in range(1, 9)]
    return [*made, ("WebP, animated", _animated)]


def _lossless(alpha: bool, orientation: int = 0) -> Maker:
    def make(random: Random) -> Case:
        pixels = ramp(*size(random), 4 if alpha else 3)
        data = by_pillow(pixels, "WEBP", lossless=True, exact=True, orientation=orientation)
        return Case(data, upright(pixels[..., :3], orientation), "Pillow")

    return make


def _lossy(alpha: bool) -> Maker:
    def make(random: Random) -> Case:
        pixels = real_image(random) if random.random() < 0.3 else ramp(*size(random), 3)
        if alpha:
            pixels = np.dstack([pixels, pixels[..., 0]])
        data = by_pillow(pixels, "WEBP", quality=random.randrange(5, 101), method=random.randrange(7))
        return Case(data, None, "dwebp")

    return make


def _animated(random: Random) -> Case:
    frames = [Image.fromarray(ramp(20, 30, seed=seed)) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return Case(file.getvalue(), None, "Pillow")
