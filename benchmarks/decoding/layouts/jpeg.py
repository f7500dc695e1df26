"""JPEG by Pillow, imagecodecs and cjpeg of libjpeg-turbo."""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import cache
from random import Random
from typing import Any

import imagecodecs
from PIL import Image

from benchmarks.decoding.images import image as real_image, ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, by_pillow, size

TURNS = range(1, 9)
CJPEG = {
    "arithmetic": ("-arithmetic",),
    "arithmetic, progressive": ("-arithmetic", "-progressive"),
    "arithmetic, gray": ("-arithmetic", "-grayscale"),
    "RGB components": ("-rgb",),
    "RGB components, progressive": ("-rgb", "-progressive"),
    "restart intervals": ("-restart", "3B"),
    "restart intervals, progressive": ("-restart", "2B", "-progressive"),
    "restart intervals, arithmetic": ("-restart", "2B", "-arithmetic"),
    "optimized": ("-optimize",),
    "sampling 4x1": ("-sample", "4x1,1x1,1x1"),
    "sampling 1x2": ("-sample", "1x2,1x1,1x1"),
    "sampling 2x1": ("-sample", "2x1,1x1,1x1"),
    "sampling 2x2": ("-sample", "2x2,1x1,1x1"),
    "sampling 4x2": ("-sample", "4x2,1x1,1x1"),
    "sampling 2x2, chroma 2x1": ("-sample", "2x2,2x1,2x1"),
    "sampling 1x1, luma coarser": ("-sample", "1x1,2x2,2x2"),
    "gray with sampling 2x2": ("-grayscale", "-sample", "2x2"),
}


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made: Layouts = []
    for sampling in (0, 1, 2):
        for progressive in (False, True):
            name = f"JPEG by Pillow, subsampling {sampling}{', progressive' if progressive else ''}"
            made += [(name, _pillow(3, subsampling=sampling, progressive=progressive))] * 6
    for progressive in (False, True):
        made += [
            (f"JPEG by Pillow, gray{', progressive' if progressive else ''}", _pillow(1, progressive=progressive))
        ] * 6
        made += [(f"JPEG by Pillow, CMYK{', progressive' if progressive else ''}", _cmyk(progressive))] * 3
    made += [("JPEG by Pillow, restart intervals", _pillow(3, restart_marker_blocks=blocks)) for blocks in (1, 2, 5, 9)]
    made += [("JPEG orientations", _turned(turn)) for turn in TURNS for _ in range(3)]
    made += [("JPEG YCCK", _ycck)] * 3
    if shutil.which("cjpeg"):
        made += [(f"JPEG by cjpeg, {name}", _cjpeg(*words)) for name, words in CJPEG.items() for _ in range(3)]
    return made


def _pixels(random: Random, channels: int) -> Any:
    if random.random() < 0.2 and channels in (1, 3):
        return real_image(random, gray=channels == 1)
    return ramp(*size(random), channels, 8, random.randrange(99))


@cache
def _second() -> str:
    return "djpeg -strict" if shutil.which("djpeg") else "Pillow"


def _pillow(channels: int, **options: Any) -> Maker:
    def make(random: Random) -> Case:
        data = by_pillow(_pixels(random, channels), "JPEG", quality=random.randrange(10, 100), **options)
        return Case(data, None, _second())

    return make


def _cmyk(progressive: bool) -> Maker:
    def make(random: Random) -> Case:
        image = Image.fromarray(_pixels(random, 4), "CMYK")
        return Case(by_pillow(image, "JPEG", quality=90, progressive=progressive), None, "OpenCV")

    return make


def _ycck(random: Random) -> Case:
    data = imagecodecs.jpeg8_encode(_pixels(random, 4), level=90, colorspace="CMYK", outcolorspace="YCCK")
    return Case(data, None, "OpenCV")


def _turned(orientation: int) -> Maker:
    def make(random: Random) -> Case:
        pixels = _pixels(random, random.choice((1, 3)))
        return Case(by_pillow(pixels, "JPEG", quality=92, orientation=orientation), None, "Pillow")

    return make


def _cjpeg(*words: str) -> Maker:
    def make(random: Random) -> Case:
        file = io.BytesIO()
        Image.fromarray(_pixels(random, 3)).save(file, "PPM")
        quality = str(random.randrange(10, 100))
        command = ["cjpeg", "-quality", quality, *words]
        made = subprocess.run(command, input=file.getvalue(), capture_output=True, check=True)
        return Case(made.stdout, None, _second())

    return make
