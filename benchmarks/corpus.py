"""Images whose decoding costs what real ones cost: drawn, so that anyone has the same.

    python -m benchmarks.corpus FOLDER {scans,cells} [COUNT]

`scans` are JPEGs of 512x512, gray content in three channels, about 30 kB; `cells` are colour PNGs of about 140x140 and
30 kB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def corpus(folder: Path, kind: str, count: int = 600) -> Path:
    """Return a folder of `count` images, drawn if it is not there yet."""
    draw, suffix, settings = KINDS[kind]
    target = folder / f"{kind}-{count}"
    if not target.exists():
        draft = target.with_suffix(".draft")
        draft.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            cv2.imwrite(str(draft / f"{i:06}{suffix}"), draw(np.random.default_rng(i)), settings)
        draft.rename(target)
    return target


def _scan(random: np.random.Generator) -> Image:
    """Draw a bright outline with tissue of two grains inside, on black."""
    side = 512
    tissue = _grain(random, side, 12) * 0.6 + _grain(random, side, 90) * 0.25 + _grain(random, side, side) * 0.05
    mask = np.zeros((side, side), np.float32)
    axes = tuple(int(half) for half in random.integers(150, 235, 2))
    cv2.ellipse(mask, (side // 2, side // 2), axes, float(random.uniform(0, 180)), 0, 360, 1, -1)
    gray = np.clip((0.35 + tissue) * mask * 200, 0, 255).astype(np.uint8)
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)


def _cell(random: np.random.Generator) -> Image:
    """Draw a stained cell of a size of its own on black, with the camera's noise."""
    height, width = (int(side) for side in random.integers(120, 161, 2))
    image = np.zeros((height, width, 3), np.float32)
    stain = random.uniform((150, 110, 180), (190, 150, 230))
    cv2.ellipse(image, (width // 2, height // 2), (width * 9 // 20, height * 9 // 20), 0, 0, 360, stain.tolist(), -1)
    noise = random.normal(0, 5, image.shape) * (image > 0)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _grain(random: np.random.Generator, side: int, cells: int) -> npt.NDArray[np.float32]:
    """Return smooth noise with so many cells along a side."""
    return cv2.resize(random.normal(0, 0.5, (cells, cells)).astype(np.float32), (side, side))


KINDS: dict[str, tuple[Callable[[np.random.Generator], Image], str, list[int]]] = {
    "scans": (_scan, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
    "cells": (_cell, ".png", []),
}

if __name__ == "__main__":
    print(corpus(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 600))
