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
# A standard error below it is rounding.
TINY = 1e-9
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


def wilson(successes: float, trials: float) -> Interval:
    """Return the score interval of a proportion.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference.

    Raises:
        ValueError: No trials.
    """
    if not trials > 0:
        raise ValueError("no trials")
    share, z2 = successes / trials, Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def proportion(right: Array, groups: Array | None = None) -> Interval | None:
    """Return the interval of how many are right; None where there are none at all.

    Images of one group count for less than as many independent ones: Wilson's interval then has the effective number of
    trials (Korn, E. L. and Graubard, B. I. (1998): Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data), which is the number of groups where all or none are right.

    Args:
        right: bool (n,).
        groups: int (n,): the patient of each image.
    """
    n, hits = len(right), int(np.count_nonzero(right))
    if not n:
        return None
    members = None if groups is None else np.unique(groups, return_inverse=True)[1]
    if members is None or members.max() + 1 == n:
        return wilson(hits, n)
    count, share = int(members.max()) + 1, hits / n
    trials = float(count)
    if 0 < share < 1 and count > 1:
        residuals = np.bincount(members, weights=right - share)
        variance = count / (count - 1) * float(residuals @ residuals) / n**2
        trials = min(float(n), share * (1 - share) / variance) if variance else float(n)
    found = wilson(share * trials, trials)
    return Interval(found.low, found.high, "Wilson, effective trials of patients")


def delong(truths: Array, scores: Array, groups: Array | None = None) -> tuple[float, Interval | None]:
    """Return the mean area under ROC curves, and its interval.

    DeLong, E. R. et al. (1988): Comparing the areas under two or more correlated receiver operating characteristic
    curves. An area's variance comes from how each image alone moves it; images of one group are summed first, after
    Obuchowski, N. A. (1997): Nonparametric analysis of clustered ROC curve data. The interval is symmetric on the logit
    scale, where it cannot leave (0, 1). There is none where a curve has fewer than two positives or negatives (or
    groups of them), or where every curve is perfect: nothing then tells how much chance there is.

    Args:
        truths: bool (n, curves): which images are positive for each curve.
        scores: float (n, curves).
        groups: int (n,): the patient of each image.

    Raises:
        ValueError: A curve without positives or without negatives.
    """
    members = np.arange(len(truths)) if groups is None else np.unique(groups, return_inverse=True)[1]
    influence: Array = np.zeros(members.max() + 1)
    areas, known = [], True
    for truth, score in zip(truths.T.astype(bool), scores.T, strict=True):
        positive, negative = score[truth], score[~truth]
        if not len(positive) or not len(negative):
            raise ValueError("a curve needs positives and negatives")
        above = _share_below(negative, positive)
        area = float(above.mean())
        for side, shares in ((truth, above), (~truth, 1 - _share_below(positive, negative))):
            units = len(np.unique(members[side]))
            known = known and units > 1
            moved = np.bincount(members[side], weights=shares - area, minlength=len(influence)) / side.sum()
            influence += moved * math.sqrt(units / max(1, units - 1)) / truths.shape[1]
        areas.append(area)
    area, error = float(np.mean(areas)), math.sqrt(float(influence @ influence))
    if not known or not 0 < area < 1 or error < TINY:
        return area, None
    centre, half = math.log(area / (1 - area)), Z * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return area, Interval(low, high, "DeLong" if groups is None else "DeLong, over patients")


def bootstrap(
    statistics: Callable[[Array], Array], strata: Array, groups: Array | None = None, *, seed: int = 0
) -> list[Interval | None]:
    """Return the percentile interval of each of several statistics; None for one that is undefined or never varies.

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
        # A statistic that no draw moves, such as of one patient alone, has shown no chance, and not that there is none.
        if len(defined) < 0.9 * len(column) or np.ptp(defined) < TINY:
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
    """Return a number for each image's patient, its own where that is unknown; None where no two images share one."""
    names = [patient or (i,) for i, patient in enumerate(patients)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return None if len(numbers) == len(names) else np.array([numbers[name] for name in names])
