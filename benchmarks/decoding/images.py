"""Images to make files of: real ones of the folder MEDONNX_DATA (by default ../shared/data), or else synthetic ones."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.decoding.process import ROOT

DATA = Path(os.environ.get("MEDONNX_DATA", ROOT.parent / "shared" / "data"))
FOLDERS = ("brain-tumor-mri", "malaria")
SIDES = (64, 200)

Pixels = npt.NDArray[Any]


@cache
def paths() -> tuple[Path, ...]:
    """Return the paths of the real images, in the order of their names; none where there is no such folder."""
    files = (path for folder in FOLDERS for path in (DATA / folder).rglob("*"))
    return tuple(sorted(path for path in files if path.suffix.lower() in (".jpg", ".png")))


def source() -> str:
    """Name the images, for the heading of a table."""
    return f"{len(paths())} images of {', '.join(FOLDERS)}" if paths() else "synthetic images"


def image(random: Random, *, gray: bool = False) -> Pixels:
    """Return the pixels of an image: uint8, (H, W) gray or (H, W, 3) RGB."""
    if not paths():
        return ramp(random.randrange(*SIDES), random.randrange(*SIDES), channels=1 if gray else 3)
    flags = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
    pixels = cv2.imread(str(random.choice(paths())), flags)
    assert pixels is not None
    return np.ascontiguousarray(pixels[::2, ::2]) if pixels.shape[0] > 300 else pixels


def jpeg(random: Random) -> bytes | None:
    """Return a real JPEG as it is, or None if there is none."""
    files = [path for path in paths() if path.suffix == ".jpg"]
    return random.choice(files).read_bytes() if files else None


def ramp(height: int, width: int, channels: int = 3, bits: int = 8, seed: int = 0) -> Pixels:
    """Return a ramp with noise: uint8 or uint16, (H, W) or (H, W, channels), of so many bits."""
    top = (1 << bits) - 1
    rows, columns = np.mgrid[0:height, 0:width]
    level = ((rows + 2 * columns) / (height + 2 * width) * 0.8 * top)[..., None]
    grain = np.random.default_rng([height, width, channels, seed]).uniform(0, 0.2 * top, (height, width, channels))
    pixels = np.rint(level + grain).astype(np.uint16 if bits > 8 else np.uint8)
    return pixels[..., 0] if channels == 1 else pixels
