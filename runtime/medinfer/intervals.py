"""95 % intervals: Wilson's for proportions, DeLong's for areas under ROC curves, a bootstrap for everything else.

Images of one patient are no independent witnesses: where patients are known, they are what is drawn and summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
RESAMPLES = 1000
# How many numbers a block of resamples may hold: 32 MB.
BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A range that holds the truth in 95 % of samples like this one, and how it was found."""

    low: float
    high: float
    method: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"low": self.low, "high": self.high, "method": self.method}


def wilson(successes: int, trials: int) -> Interval:
    """Return the score interval of a proportion.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference.

    Raises:
        ValueError: No trials.
    """
    if trials < 1:
        raise ValueError("no trials")
    share, z2 = successes / trials, Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def delong(truths: Array, scores: Array, groups: Array | None = None) -> tuple[float, Interval | None]:
    """Return the mean area under ROC curves, and its interval; None where every curve is perfect.

    DeLong, E. R. et al. (1988): Comparing the areas under two or more correlated receiver operating characteristic
    curves; for clusters Obuchowski, N. A. (1997): Nonparametric analysis of clustered ROC curve data. An area's
    variance comes from how each image alone moves it; images of one group are summed first. The interval is symmetric
    on the logit scale, where it cannot leave (0, 1).

    Args:
        truths: bool (n, curves): which images are positive for each curve.
        scores: float (n, curves).
        groups: int (n,): the patient of each image.

    Raises:
        ValueError: A curve without positives or without negatives.
    """
    influence: Array = np.zeros(len(truths))
    areas = []
    for truth, score in zip(truths.T.astype(bool), scores.T, strict=True):
        positive, negative = score[truth], score[~truth]
        if not len(positive) or not len(negative):
            raise ValueError("a curve needs positives and negatives")
        above = _share_below(negative, positive)
        below = 1 - _share_below(positive, negative)
        area = float(above.mean())
        # The square roots make the sum of squares DeLong's, which divides by m - 1.
        influence[truth] += (above - area) / math.sqrt(max(1, len(positive) * (len(positive) - 1)))
        influence[~truth] += (below - area) / math.sqrt(max(1, len(negative) * (len(negative) - 1)))
        areas.append(area)
    influence /= len(areas)
    if groups is not None:
        members: Array = np.unique(groups, return_inverse=True)[1]
        influence = np.bincount(members, weights=influence)
    area, error = float(np.mean(areas)), math.sqrt(float(influence @ influence))
    if not 0 < area < 1 or not error:
        return area, None
    centre, half = math.log(area / (1 - area)), Z * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return area, Interval(low, high, "DeLong" if groups is None else "DeLong, over patients")


def bootstrap(
    statistics: Callable[[Array], Array], strata: Array, groups: Array | None = None, *, seed: int = 0
) -> list[Interval | None]:
    """Return the percentile interval of each of several statistics; None for one that is mostly undefined.

    Efron, B. (1979): Bootstrap methods: another look at the jackknife. Each stratum keeps its size.

    Args:
        statistics: Takes weights, float (resamples, n); returns values, float (resamples, statistics), NaN where
            undefined.
        strata: int (n,): the class of each image.
        groups: int (n,): the patient of each image; patients are drawn within the class that most of their images have.
        seed: Of the draws.
    """
    blocks = [statistics(weights) for weights in _draws(strata, groups, np.random.default_rng(seed))]
    values = np.concatenate(blocks)
    method = "bootstrap" if groups is None else "bootstrap over patients"
    found: list[Interval | None] = []
    for column in values.T:
        defined = column[~np.isnan(column)]
        if len(defined) < 0.9 * len(column):
            found.append(None)
            continue
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found.append(Interval(float(low), float(high), method))
    return found


def _share_below(values: Array, points: Array) -> Array:
    """Return for each point the share of values below it, ties counting half."""
    ordered = np.sort(values)
    less, not_more = np.searchsorted(ordered, points, "left"), np.searchsorted(ordered, points, "right")
    return np.asarray((less + not_more) / (2 * len(values)))


def _draws(strata: Array, groups: Array | None, random: np.random.Generator) -> Iterator[Array]:
    """Yield blocks of weights, float (resamples, n): how often each image is drawn."""
    units, kinds = np.arange(len(strata)), strata
    if groups is not None:
        units = np.unique(groups, return_inverse=True)[1]
        kinds = np.array([np.bincount(strata[units == unit]).argmax() for unit in range(units.max() + 1)])
    size = max(1, BLOCK // len(strata))
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        drawn = np.zeros((count, units.max() + 1))
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            drawn[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
        yield drawn[:, units]


def known_patients(patients: Sequence[str | None]) -> Array | None:
    """Return a number for each image's patient; None where they are unknown or have one image each."""
    if any(not patient for patient in patients):
        return None
    numbers = np.unique(np.array(patients, dtype=str), return_inverse=True)[1]
    return numbers if len(np.unique(numbers)) < len(numbers) else None
