"""The images that a verdict is given on where nobody names any, and the patterns that it is given on always."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medtrain.phantom import CLASSES, draw_cell

Image = npt.NDArray[np.uint8]

SEED, CELLS = 2026, 48


def drawn_images() -> list[Image]:
    """Return pictures that vary as a task's do: cells and coarse noise, RGB."""
    cells = [draw_cell(SEED, index, CLASSES[index % len(CLASSES)]) for index in range(CELLS)]
    random = np.random.default_rng(SEED)
    blocks = [random.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(CELLS // 3)]
    return cells + [np.repeat(np.repeat(block, 20, axis=0), 20, axis=1) for block in blocks]


def patterns() -> Iterator[Image]:
    """Yield what stresses every path of the preprocessing and both ends of the network's range."""
    noise = np.random.default_rng(SEED).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 160).astype(np.uint8)
    across = np.tile(ramp, (100, 1))
    yield np.zeros((50, 60, 3), np.uint8)
    yield np.full((60, 50, 3), 255, np.uint8)
    yield noise
    yield noise[..., 0]  # gray
    yield np.stack([across, across[:, ::-1], np.full_like(across, 128)], axis=2)
    yield np.ascontiguousarray(across.T)
    for side in (1, 8):
        yield (np.indices((64, 64)) // side).sum(axis=0).astype(np.uint8) % 2 * np.uint8(255)  # checkerboards
    yield noise[:1, :1]
    yield noise[:2]
    yield noise[:, :2]
    yield noise[:3]  # 40 to 1: a crop makes of it what memory holds
