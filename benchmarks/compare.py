"""What changed between two results, beyond noise.

Speeds are taken in units of the limit of the same round, so that a slower hour of a shared machine is no change. The
logarithms of both sides' rounds are compared by Welch's t-interval; its level is 95 % over all comparisons together
(Bonferroni), and what is under `WORTH` is not told even where it is certain.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from scipy import stats

from benchmarks.figures import KINDS, MAIN, Row, figures, key, limits
from benchmarks.report import how

Results = dict[str, Any]

LEVEL, WORTH = 0.05, 0.05
TIMES = {"rate": -1, "whole": -1, "served": -1, "cpu": 1, "p50": 1, "p90": 1, "p99": 1, "first": 1}
"""The power in which a figure holds time: what is divided by the machine's own speed."""


def changes(before: Results, after: Results) -> list[str]:
    """Return a line for each figure that changed, each answer that no longer agrees, and each row that came or went."""
    old, new = ({key(row): row for row in results["rows"]} for results in (before, after))
    both = [name for name in old if name in new]
    lines = [f"{_name(old[name])}: only before" for name in old if name not in new]
    lines += [f"{_name(new[name])}: only after" for name in new if name not in old]
    for name in both:
        lines += _answers(old[name], new[name])
    compared = [(old[name], new[name], kind) for name in both for kind in _kinds(old[name], new[name])]
    for one, other, kind in compared:
        values = _comparable((one, before), (other, after), kind)
        if not all(min(side) > 0 for side in values):
            if min(values[0]) > 0 or min(values[1]) > 0:
                lines.append(f"{_name(other)}: {KINDS[kind].title} is none in a round of one side")
            continue
        ratio, low, high = interval(*values, level=LEVEL / len(compared))
        if not low <= 1 <= high and abs(math.log(ratio)) > WORTH:
            better = (ratio > 1) == KINDS[kind].more_is_better
            told = "better" if better else "WORSE"
            lines.append(f"{_name(other)}: {KINDS[kind].title} x {ratio:.2f} ({low:.2f} to {high:.2f}), {told}")
    return lines


def interval(before: Sequence[float], after: Sequence[float], *, level: float) -> tuple[float, float, float]:
    """Return the ratio of geometric means, after / before, and the ends of its interval of confidence 1 - level.

    Welch, B. L. (1947): The generalization of "Student's" problem when several different population variances are
    involved; on logarithms.
    """
    logs = [[math.log(value) for value in values] for values in (before, after)]
    difference = statistics.mean(logs[1]) - statistics.mean(logs[0])
    if min(map(len, logs)) < 2:
        return math.exp(difference), 0.0, math.inf
    parts = [statistics.variance(values) / len(values) for values in logs]
    if not sum(parts):
        return (math.exp(difference),) * 3
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True))
    half = stats.t.ppf(1 - level / 2, freedom) * math.sqrt(sum(parts))
    return math.exp(difference), math.exp(difference - half), math.exp(difference + half)


def _kinds(one: Row, other: Row) -> Iterator[str]:
    """Yield the figures to compare: the main one of the scenario, CPU time and memory."""
    if one["contestant"] != "the limit" and one["samples"] and other["samples"]:
        yield from (kind for kind in (MAIN[one["scenario"]], "cpu", "peak") if kind in figures(one))


def _comparable(one: tuple[Row, Results], other: tuple[Row, Results], kind: str) -> list[list[float]]:
    """Return both sides' figures: in units of the limit of their rounds if both have it, as they are if not."""
    sides = [(figures(row)[kind], limits(results, row["subject"]), results) for row, results in (one, other)]
    if kind not in TIMES or any(len(values) != len(speeds) for values, speeds, _ in sides):
        return [values for values, _, _ in sides]
    units = []
    for values, speeds, results in sides:
        # More cores make more images a second, and no single image faster.
        cores = 1 if TIMES[kind] < 0 else results["machine"]["cores"]
        units.append([value * (speed / cores) ** TIMES[kind] for value, speed in zip(values, speeds, strict=True)])
    return units


def _answers(one: Row, other: Row) -> Iterator[str]:
    """Yield what changed in what a contestant answers, or whether it answers at all."""
    if one["failure"] != other["failure"]:
        yield f"{_name(other)}: failure was {one['failure']!r}, is {other['failure']!r}"
    was, now = one["agreement"] or {}, other["agreement"] or {}
    for name in ("agrees", "flips", "accuracy"):
        if was.get(name) != now.get(name):
            told = ", WORSE" if _worse(name, was, now) else ""
            yield f"{_name(other)}: {name} was {was.get(name)}, is {now.get(name)}{told}"


def _worse(name: str, was: dict[str, Any], now: dict[str, Any]) -> bool:
    old, new = was.get(name) or 0, now.get(name) or 0
    return new > old if name == "flips" else new < old


def _name(row: Row) -> str:
    return " ".join(word for word in (row["subject"], row["scenario"], row["contestant"], how(row)) if word)
