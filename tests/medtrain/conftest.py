"""What tests of the data side share: pictures decided by a number, folders of them, manifests.

Builders are fixtures that return a function, so that test modules need import nothing from one another.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medinfer.spec import InputSpec


def _smooth(value, side=64):
    """Return a soft gray picture: a lossy copy of it looks alike, that of another number does not."""
    noise = np.random.default_rng(value).uniform(0, 255, (side, side)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), side / 16)
    return cv2.normalize(soft, None, 40, 200, cv2.NORM_MINMAX).astype(np.uint8)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def _put(path, value, size=(9, 11)):
    return _save(path, np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8))


def _fill(folder, *, classes=("a", "b"), count=20, start=0, suffix=".png"):
    for k, label in enumerate(classes):
        for i in range(count):
            _put(folder / label / f"{i}{suffix}", start + 1000 * k + i)
    return folder


def _manifest(path, *rows, columns="path,label,patient,split", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in (columns, *rows)), encoding=encoding)
    return path


@pytest.fixture(scope="session")
def spec():
    """The `input` of a contract for 8x8 tensors."""
    return InputSpec(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="session")
def smooth():
    """Pixels that survive a lossy copy: `smooth(value)`, 64x64 gray."""
    return _smooth


@pytest.fixture(scope="session")
def save():
    """Writes pixels in the format that the suffix names: `save(path, pixels)`."""
    return _save


@pytest.fixture(scope="session")
def put():
    """Writes noise decided by a number: `put(path, value, size=(9, 11))`."""
    return _put


@pytest.fixture(scope="session")
def fill():
    """Writes class folders of images that all differ: `fill(folder, classes=..., count=20, start=0, suffix=".png")`."""
    return _fill


@pytest.fixture(scope="session")
def manifest():
    """Writes a CSV: `manifest(path, *rows, columns="path,label,patient,split")`."""
    return _manifest
