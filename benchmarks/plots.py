"""The plots of a report: latencies, throughput by batch, and speed against agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.figures import Row
from benchmarks.report import how, median

mpl.use("Agg")
FLOOR = 1e-9
"""Where a difference of nothing is drawn on a logarithmic axis."""


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots that the results allow; returns their files."""
    rows = [row for row in results["rows"] if row["samples"]]
    found = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        mine = [row for row in rows if row["subject"] == subject]
        for name, plot in PLOTS.items():
            figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
            if plot(axes, mine):
                axes.set_title(subject)
                if axes.get_legend_handles_labels()[0]:
                    axes.legend(fontsize="small")
                path = folder / f"{subject}-{name}.png"
                figure.savefig(path, dpi=110, metadata={"Software": None})
                found.append(path)
            plt.close(figure)
    return found


def _latencies(axes: Any, rows: list[Row]) -> bool:
    """Draw how many of a contestant's images were answered within how long."""
    rows = [row for row in rows if row["scenario"] == "single"]
    for row in rows:
        name = ", ".join(word for word in (row["contestant"], how(row)) if word)
        values = sorted(value for sample in row["samples"] for value in sample["latencies"])
        axes.plot(
            values,
            [i / len(values) for i in range(len(values))],
            label=name if not row["agreement"] or row["agreement"]["agrees"] else f"{name} (disagrees)",
        )
    axes.set(xscale="log", xlabel="ms from the path to the answer", ylabel="share of images")
    return bool(rows)


def _batches(axes: Any, rows: list[Row]) -> bool:
    """Draw images a second by batch, for each contestant that was run with several."""
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["scenario"] == "offline" and row["batch"]:
            words = [row["contestant"], how({**row, "batch": 0})]
            lines.setdefault(", ".join(word for word in words if word), {})[row["batch"]] = median(row, "rate")
    for name, points in lines.items():
        axes.plot(list(points), list(points.values()), marker="o", label=name)
    axes.set(xlabel="images in one run", ylabel="images/s")
    axes.set_xscale("log", base=2)
    return any(len(points) > 1 for points in lines.values())


def _agreement(axes: Any, rows: list[Row]) -> bool:
    """Draw speed against the largest difference from the checkpoint."""
    rows = [row for row in rows if row["scenario"] == "offline" and row["agreement"]]
    for row in rows:
        agrees = row["agreement"]["agrees"]
        place = (max(row["agreement"]["max_difference"], FLOOR), median(row, "rate"))
        axes.scatter(*place, marker="o" if agrees else "x", color="tab:blue" if agrees else "tab:red")
        axes.annotate(f" {row['contestant']} {how(row)}", place, fontsize="x-small")
    axes.set(xscale="log", xlabel="largest difference from the checkpoint (x: disagrees)", ylabel="images/s")
    return bool(rows)


PLOTS = {"latency": _latencies, "batches": _batches, "agreement": _agreement}
