"""Is an int8 file worth shipping: as right as the checkpoint, and faster than the fp32 file on this machine?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medexport.source import Source
from medexport.splits import SplitImages
from medexport.verify import as_kept, judge
from medinfer.errors import VariantError
from medinfer.imaging import ImageSource
from medinfer.model import load
from medinfer.progress import Progress
from medinfer.spec import Agreement

# Odd, so that a median is one of them.
PAIRS, WARM_UP = 61, 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Speed:
    """How much faster one model answers than another, from file to answer on one thread, image by image in turns."""

    ratio: float
    """The median of plain / quantised."""
    low: float
    """What the median lies over in 95 % of such measurements: a distribution-free interval."""
    plain_ms: float
    quantised_ms: float

    def __str__(self) -> str:
        spent = f"{self.plain_ms:.1f} -> {self.quantised_ms:.1f} ms an image"
        return f"{self.ratio:.2f} times as fast as fp32 here, at least {self.low:.2f} ({spent})"


def insist_on_worth(
    source: Source, plain: Path, quantised: Path, images: SplitImages, progress: Progress | None = None
) -> Agreement:
    """Return the verdict on an int8 file, having measured that it is worth shipping.

    Args:
        source: The checkpoint.
        plain: The fp32 file of it.
        quantised: The int8 file.
        images: Of the run's splits; `tell` hears the figures.
        progress: Stepped while the verdict is given.

    Raises:
        VariantError: Too many labels change, too much AUC is or may be lost, or it is no faster; with all figures.
    """
    with load(plain, "cpu", threads=1) as first, load(quantised, "cpu", threads=1) as second:
        speed = compare_speed(first.predict, second.predict, images.images)
        sizes = [f"{path.stat().st_size / 1e6:.1f}" for path in (plain, quantised)]
        told = f"{speed}; {sizes[0]} -> {sizes[1]} MB"
        try:
            agreement = judge(source, second, images, progress)
        except VariantError as error:
            raise _not_worth(f"{error.message}; {told}") from None
    if speed.low <= 1:
        raise _not_worth(f"{told}; {as_kept(agreement)}")
    images.tell(f"int8: {told}")
    return agreement


def _not_worth(figures: str) -> VariantError:
    return VariantError(
        f"int8 is not worth shipping: {figures}", hint="No file was written; the fp32 file serves better."
    )


def compare_speed(
    plain: Callable[[ImageSource], object],
    quantised: Callable[[ImageSource], object],
    images: Sequence[ImageSource],
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time two models on the same images in turns, so that whatever else the machine does slows both alike.

    Args:
        plain: Answers on one image.
        quantised: Likewise.
        images: At least one.
        clock: Seconds.
    """
    times = np.zeros((WARM_UP + PAIRS, 2))
    for i in range(len(times)):
        for side in (0, 1) if i % 2 else (1, 0):
            start = clock()
            (plain, quantised)[side](images[i % len(images)])
            times[i, side] = clock() - start
    measured = times[WARM_UP:]
    ratios = np.sort(measured[:, 0] / measured[:, 1])
    medians = 1000 * np.median(measured, axis=0)
    return Speed(float(np.median(ratios)), float(ratios[_lowest_rank(PAIRS)]), float(medians[0]), float(medians[1]))


def _lowest_rank(count: int) -> int:
    """Return which of so many sorted values, from 0, lies below the median in 97.5 % of samples, by the sign test."""
    below, rank = 0.0, -1
    while below <= (1 - CONFIDENCE) / 2:
        rank += 1
        below += math.comb(count, rank) / 2**count
    return max(0, rank - 1)
