"""What the samples of a row say: one figure of each kind for every round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
KEY = ("subject", "contestant", "scenario", "provider", "tf32", "batch", "threads")


class Kind(NamedTuple):
    """A kind of figure."""

    title: str
    digits: int
    more_is_better: bool


KINDS = {
    "rate": Kind("images/s", 1, True),
    "whole": Kind("images/s, whole process", 1, True),
    "cpu": Kind("CPU ms an image", 2, False),
    "peak": Kind("peak MB", 0, False),
    "p50": Kind("p50 ms", 2, False),
    "p90": Kind("p90 ms", 2, False),
    "p99": Kind("p99 ms", 2, False),
    "first": Kind("first answer, ms", 0, False),
    "served": Kind("requests/s", 1, True),
}
MAIN = {"offline": "rate", "single": "p50", "cold": "first", "server": "served"}


def key(row: Row) -> tuple[Any, ...]:
    """Return what tells a row from others."""
    return tuple(row[name] for name in KEY)


def figures(row: Row) -> dict[str, list[float]]:
    """Return the figures of a row, a value for each round."""
    samples, images = row["samples"], row["images"]
    if row["scenario"] == "offline":
        return {
            "rate": [images / (one["end"] - one["ready"]) for one in samples],
            "whole": [images / one["wall"] for one in samples],
            "cpu": [1000 * one["cpu"] / images for one in samples],
            "peak": [one["peak_mb"] for one in samples],
        }
    if row["scenario"] == "single":
        found = {f"p{share}": [percentile(one["latencies"], share) for one in samples] for share in (50, 90, 99)}
        return {**found, "peak": [one["peak_mb"] for one in samples]}
    if row["scenario"] == "cold":
        return {"first": [1000 * one["first"] for one in samples], "peak": [one["peak_mb"] for one in samples]}
    return {"served": [one["rate"] for one in samples]}


def stages(row: Row) -> dict[str, float]:
    """Return the median milliseconds of each stage of one image; nothing where a contestant tells none."""
    found = [stage for sample in row["samples"] for stage in sample.get("stages", [])]
    return {name: statistics.median(one[name] for one in found) for name in found[0]} if found else {}


def limits(results: dict[str, Any], subject: str) -> list[float]:
    """Return the most images a second that the machine could do, for each round: cores / CPU time of the parts."""
    rows = (row for row in results["rows"] if (row["subject"], row["contestant"]) == (subject, "the limit"))
    row = next(rows, None)
    cores = results["machine"]["cores"]
    return [1000 * cores / sum(sample["parts"].values()) for sample in row["samples"]] if row else []


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` percent lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]
