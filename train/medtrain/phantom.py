"""`phantom`: drawn images of red blood cells, some with a ring-stage malaria parasite.

They imitate cells cut out of a Giemsa-stained thin blood smear. In the class `parasitized` the cell holds one or two
rings with chromatin dots; precipitate, platelets and lone dots are equally frequent in both, so only the ring tells.
They are drawn, not photographed: for trying out the tool and for testing it. Accuracy on them has no medical meaning.
"""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from medinfer.errors import UsageError

CLASSES: Final = ("parasitized", "uninfected")
VERSION: Final = 1  # raise it with every change that changes a pixel
MARKER: Final = "phantom.json"
# Test images count from here, so they are the same whatever the number of training images.
TEST_START: Final = 1_000_000
# Absorbance of the two dyes in R, G, B at density 1: eosin colours the cell, azure the parasite.
EOSIN: Final = np.array([0.13, 0.42, 0.36], np.float32)
AZURE: Final = np.array([0.95, 0.70, 0.25], np.float32)
Plane = NDArray[np.float32]  # (H, W)


@dataclass(frozen=True)
class _Disc:
    """Where something round lies: a cell, a platelet, a ring. In pixels."""

    x: float
    y: float
    radius: float

    def around(self, distance: float, angle: float) -> tuple[float, float]:
        """The point at that many radii from the centre."""
        return self.x + distance * self.radius * math.cos(angle), self.y + distance * self.radius * math.sin(angle)


@dataclass(frozen=True)
class _Scene:
    """The pixel coordinates of an image and the dye densities drawn so far, all (H, W)."""

    x: Plane
    y: Plane
    eosin: Plane
    azure: Plane

    def polar(self, disc: _Disc) -> tuple[Plane, Plane]:
        """Distance in radii and angle in radians of every pixel, seen from the centre of the disc."""
        dx, dy = self.x - disc.x, self.y - disc.y
        return np.hypot(dx, dy) / disc.radius, np.arctan2(dy, dx)

    def add_blob(self, x: float, y: float, radius: float, density: float) -> None:
        """A soft round spot that takes both dyes, so that it turns out violet."""
        squared = ((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2
        spot = density * np.exp(-(squared**2))
        self.azure[:] += spot
        self.eosin[:] += 0.6 * spot


def draw_cell(seed: int, index: int, label: str) -> NDArray[np.uint8]:
    """Draw one image, the same on every call. The label decides whether a parasite is drawn, and nothing else.

    Args:
        seed: Seed of the data set, not negative.
        index: Number of the image in the data set, not negative.
        label: One of `CLASSES`.

    Returns:
        uint8, (H, W, 3), RGB, each side 64 to 128 pixels.

    Raises:
        UsageError: The label is not one of `CLASSES`.
        ValueError: The seed or the index is negative.
    """
    if label not in CLASSES:
        raise UsageError(f"phantom class: {label!r}", hint=f"Use one of {', '.join(CLASSES)}.")
    rng = np.random.default_rng([seed, index])
    side = int(rng.integers(72, 121))
    height, width = (side + int(rng.integers(-8, 9)) for _ in range(2))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    scene = _Scene(x, y, np.zeros_like(x), np.zeros_like(x))
    short = min(height, width)
    centre_x, centre_y = (n / 2 + rng.uniform(-0.07, 0.07) * short for n in (width, height))
    cell = _Disc(centre_x, centre_y, rng.uniform(0.32, 0.42) * short)
    _add_cell(scene, cell, rng)
    for _ in range(rng.integers(0, 4)):
        size = rng.uniform(0.8, 1.15)
        beside = cell.around((1 + size) * rng.uniform(0.98, 1.2), rng.uniform(0, math.tau))
        _add_cell(scene, _Disc(*beside, size * cell.radius), rng)
    _add_distractors(scene, cell, rng)
    if label == "parasitized":
        # A generator of its own: what follows must not depend on whether a parasite was drawn.
        _add_parasites(scene, cell, np.random.default_rng([seed, index, 1]))
    return _develop(scene, rng)


def _add_cell(scene: _Scene, cell: _Disc, rng: np.random.Generator) -> None:
    rho, angle = scene.polar(cell)
    outline = np.ones_like(angle)
    for lobes, depth in ((2, 0.08), (3, 0.05), (5, 0.025)):
        outline += rng.uniform(0, depth) * np.cos(lobes * angle + rng.uniform(0, math.tau))
    rho /= outline  # 1 on the outline
    inside = np.clip((1 - rho) * cell.radius / rng.uniform(1.5, 4) + 0.5, 0, 1)
    pallor = rng.uniform(0.1, 0.75) * np.exp(-((rho / rng.uniform(0.35, 0.6)) ** 2))
    rim = rng.uniform(0, 0.25) * np.exp(-(((rho - 0.88) / 0.1) ** 2))
    density = inside * (1 - pallor + rim)
    # Where two cells meet, the thicker one shows; a sum would draw a dark lens.
    np.maximum(scene.eosin, rng.uniform(0.8, 1.2) * density, out=scene.eosin)
    # Some cells are young and polychromatic: they take some azure all over.
    np.maximum(scene.azure, max(0.0, rng.uniform(-0.3, 0.22)) * density, out=scene.azure)


def _add_distractors(scene: _Scene, cell: _Disc, rng: np.random.Generator) -> None:
    """What is dark and no parasite: precipitate, a platelet (violet, with granules), a lone dot in the cell."""
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 5)):
            speck = cell.around(rng.uniform(0, 1.4), rng.uniform(0, math.tau))
            scene.add_blob(*speck, cell.radius * rng.uniform(0.03, 0.06), rng.uniform(0.5, 1.3))
    if rng.random() < 0.5:
        centre = cell.around(rng.uniform(0.2, 1.3), rng.uniform(0, math.tau))
        platelet = _Disc(*centre, cell.radius * rng.uniform(0.18, 0.36))
        scene.add_blob(*centre, platelet.radius, rng.uniform(0.15, 0.45))
        for _ in range(rng.integers(3, 8)):
            granule = platelet.around(rng.uniform(0, 0.6), rng.uniform(0, math.tau))
            scene.add_blob(*granule, platelet.radius * rng.uniform(0.15, 0.3), rng.uniform(0.15, 0.5))
    if rng.random() < 0.5:
        dot = cell.around(rng.uniform(0.1, 0.8), rng.uniform(0, math.tau))
        scene.add_blob(*dot, cell.radius * rng.uniform(0.07, 0.2), rng.uniform(0.4, 1.1))


def _add_parasites(scene: _Scene, cell: _Disc, rng: np.random.Generator) -> None:
    sizes = rng.uniform(0.18, 0.3, 2 if rng.random() < 0.15 else 1).tolist()
    angle = rng.uniform(0, math.tau)
    for size in sizes:
        # One ring lies anywhere in the cell; of two, each lies near the outline, across from the other.
        away = (0.88 - size) * (math.sqrt(rng.random()) if len(sizes) == 1 else 0.85)
        _add_ring(scene, _Disc(*cell.around(away, angle), size * cell.radius), rng)
        angle += math.pi


def _add_ring(scene: _Scene, ring: _Disc, rng: np.random.Generator) -> None:
    """A thin ring of cytoplasm round a pale vacuole, with one or two chromatin dots on it."""
    rho, angle = scene.polar(ring)
    squeeze, tilt, chromatin = rng.uniform(0, 0.15), rng.uniform(0, math.tau), rng.uniform(0, math.tau)
    rho /= 1 + squeeze * np.cos(2 * (angle - tilt))  # 1 on the ring, which is an oval
    # The cytoplasm is thickest across from the chromatin, as in a signet ring.
    thickness = rng.uniform(0.35, 0.75) * (0.8 - 0.2 * np.cos(angle - chromatin))
    cytoplasm = thickness * np.exp(-(((rho - 1) / rng.uniform(0.2, 0.3)) ** 2))
    vacuole = rng.uniform(0.1, 0.35) * np.exp(-((rho / 0.8) ** 4))
    scene.eosin[:] = scene.eosin * (1 - vacuole) + 0.25 * cytoplasm
    scene.azure[:] += cytoplasm
    for turn in range(2 if rng.random() < 0.25 else 1):
        place = chromatin + turn * rng.uniform(0.8, math.pi)
        dot = ring.around(1 + squeeze * math.cos(2 * (place - tilt)), place)
        scene.add_blob(*dot, ring.radius * rng.uniform(0.25, 0.4), rng.uniform(0.4, 1.0))


def _develop(scene: _Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """From dye densities to what a camera sees: stain, uneven light, focus, noise."""
    height, width = scene.x.shape
    texture = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 2.0) * rng.uniform(0.1, 0.6)
    eosin = EOSIN * (rng.uniform(0.5, 1.3) * rng.uniform(0.75, 1.25, 3)).astype(np.float32)
    azure = AZURE * (rng.uniform(0.75, 1.15) * rng.uniform(0.85, 1.15, 3)).astype(np.float32)
    density = (scene.eosin * (1 + texture))[..., None] * eosin + scene.azure[..., None] * azure
    u, v = scene.x / width - 0.5, scene.y / height - 0.5
    angle, slope, rim = rng.uniform(0, math.tau), rng.uniform(0, 0.3), rng.uniform(0, 0.25)
    light = 1 + slope * (u * math.cos(angle) + v * math.sin(angle)) - rim * (u * u + v * v)
    lamp = (rng.uniform(205, 250) * rng.uniform(0.92, 1.0, 3)).astype(np.float32)
    sharp = np.exp(-density) * light[..., None] * lamp
    image = np.asarray(cv2.GaussianBlur(sharp, (0, 0), rng.uniform(0.4, 1.0)), np.float32)
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 5)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_phantom(folder: Path, *, train: int = 2400, test: int = 600, seed: int = 7) -> int:
    """Write the data set as `folder/{train,test}/{parasitized,uninfected}/NNNN.png`, half in each class.

    What an equal call has written is kept, whether it came to its end or not.

    Args:
        folder: Made if missing; otherwise empty, or begun by an equal call.
        train: Number of training images, even.
        test: Number of test images, even. They do not depend on `train`.
        seed: Seed of the data set, not negative.

    Returns:
        The number of images written: 0 when all were there.

    Raises:
        UsageError: A number is out of range, or the folder holds something else.
        OSError: A file cannot be written.
    """
    counts = (("train", 0, train), ("test", TEST_START, test))
    for split, _, count in counts:
        if count % 2 or not 2 <= count <= TEST_START:
            raise UsageError(f"phantom {split} images: {count}", hint=f"Use an even number from 2 to {TEST_START}.")
    if seed < 0:
        raise UsageError(f"phantom seed: {seed}", hint="Use 0 or more.")
    settings = {"format": 1, "version": VERSION, "seed": seed, "train": train, "test": test}
    complete = _is_complete(folder, settings)
    # The classes take turns, so no cell is drawn for both.
    files = {
        folder / split / CLASSES[i % 2] / f"{i // 2:04d}.png": start + i for split, start, n in counts for i in range(n)
    }
    missing = [path for path in files if not path.exists()]
    if complete and not missing:
        return 0
    # The marker comes before the first image, so a stopped call is known again, and once more after the last.
    _write(folder / MARKER, json.dumps({**settings, "complete": False}).encode())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: _write_image(path, seed, files[path]), missing))  # a list, to raise what they raise
    _write(folder / MARKER, json.dumps({**settings, "complete": True}).encode())
    return len(missing)


def _is_complete(folder: Path, settings: dict[str, int]) -> bool:
    """Whether an equal call has come to its end here; refuses a folder with anything else in it."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        found = None
    if found in ({**settings, "complete": True}, {**settings, "complete": False}):
        return bool(found["complete"])
    # A call that was killed at its start leaves no more than a part of the marker.
    if folder.exists() and (not folder.is_dir() or any(p.name != f".{MARKER}.part" for p in folder.iterdir())):
        raise UsageError(f"not empty, and not this data set: {folder}", hint="Name a new or an empty folder.")
    return False


def _write_image(path: Path, seed: int, index: int) -> None:
    image = draw_cell(seed, index, path.parent.name)
    _write(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # a fixed name: the next call replaces what a killed one left
    part.write_bytes(data)
    os.replace(part, path)
