"""Results as people read them: Markdown tables, plots, and one HTML page that holds both."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.figures import KINDS, MAIN, Row, figures, limits, stages
from medinfer.files import atomic_file

SHOWN = {
    "offline": ("rate", "whole", "cpu", "peak"),
    "single": ("p50", "p90", "p99", "peak"),
    "cold": ("first", "peak"),
    "server": ("served",),
}
TITLES = {
    "offline": "A folder",
    "single": "One image after another",
    "cold": "The first answer of a new process",
    "server": "Random arrivals: the highest rate that holds",
}
STYLE = (
    "body{font:15px sans-serif;max-width:70em;margin:2em auto}img{max-width:100%}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:right}td:first-child{text-align:left}"
)
NOTE = "Medians of {rounds} interleaved rounds, a process each, {images} images at most, {cores} cores of {processor}."


def markdown(results: dict[str, Any]) -> str:
    """Return the tables, one for each subject and scenario, and what they were measured on."""
    parts = [_note(results)]
    rows = results["rows"]
    for subject in dict.fromkeys(row["subject"] for row in rows):
        for scenario in SHOWN:
            found = [row for row in rows if (row["subject"], row["scenario"]) == (subject, scenario)]
            if any(row["contestant"] != "the limit" for row in found):
                parts.append(_section(results, subject, scenario, found))
    return "\n\n".join(parts)


def how(row: Row) -> str:
    """Return what a row's setting adds to the defaults."""
    words = [row["provider"] if row["provider"] != "cpu" else "", "TF32" if row["tf32"] else ""]
    words += [f"{name} {row[name]}" if row[name] else "" for name in ("batch", "threads")]
    return ", ".join(word for word in words if word)


def median(row: Row, kind: str) -> float:
    """Return a figure of a row."""
    return statistics.median(figures(row)[kind])


def write(results: dict[str, Any], folder: Path) -> None:
    """Write table.md, the plots as PNG, and report.html, which holds everything."""
    from benchmarks.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    tables = markdown(results)
    pictures = draw(results, folder)
    with atomic_file(folder / "table.md") as file:
        file.write(tables + "\n")
    with atomic_file(folder / "report.html") as file:
        file.write(_page(tables, pictures))


def _section(results: dict[str, Any], subject: str, scenario: str, rows: Sequence[Row]) -> str:
    kinds = SHOWN[scenario]
    limit = limits(results, subject)
    ranked = sorted(
        (row for row in rows if row["samples"] and row["contestant"] != "the limit"),
        key=lambda row: median(row, MAIN[scenario]) * (-1 if KINDS[MAIN[scenario]].more_is_better else 1),
    )
    agreeing = [row for row in ranked if not row["agreement"] or row["agreement"]["agrees"]]
    other = [row for row in ranked if row not in agreeing]
    text = f"### {subject}: {TITLES[scenario]}\n\n"
    if scenario == "offline" and limit:
        cores = results["machine"]["cores"]
        parts = next(row for row in rows if row["contestant"] == "the limit")["samples"]
        each = {name: statistics.median(one["parts"][name] for one in parts) for name in parts[0]["parts"]}
        told = ", ".join(f"{name} {value:.2f} ms" for name, value in each.items())
        text += f"The limit is {statistics.median(limit):.1f} images/s: {cores} cores / ({told}).\n\n"
    text += _table(results, scenario, kinds, agreeing, limit)
    for row in agreeing:
        if found := stages(row):
            told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            text += f"\n{row['contestant']}, stage by stage in ms: {told}\n"
    if other:
        text += "\nNot the checkpoint's answers, and so not to be compared:\n\n"
        text += _table(results, scenario, kinds, other, limit)
    failed = [f"{row['contestant']}: {row['failure']}" for row in rows if row["failure"]]
    return text + ("\nFailed: " + "; ".join(failed) + "\n" if failed else "")


def _table(
    results: dict[str, Any], scenario: str, kinds: Sequence[str], rows: Sequence[Row], limit: Sequence[float]
) -> str:
    in_limits = bool(scenario == "offline" and limit)
    names = ["contestant", *(KINDS[kind].title for kind in kinds), *(["of the limit"] if in_limits else [])]
    names += ["largest difference", "flips", "accuracy, AUC"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        name = row["contestant"] + (f" ({how(row)})" if how(row) else "")
        cells = [name, *(f"{median(row, kind):.{KINDS[kind].digits}f}" for kind in kinds)]
        if in_limits:
            ratios = [rate / one for rate, one in zip(figures(row)["rate"], limit, strict=False)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append("| " + " | ".join([*cells, *_answers(row)]) + " |")
    return "\n".join(lines) + "\n"


def _answers(row: Row) -> list[str]:
    found = row["agreement"]
    if not found:
        return ["", "", ""]
    sign = "logit" if found["of"] == "logits" else "p"
    quality = [found.get(name) for name in ("accuracy", "macro_auc")]
    told = ", ".join("-" if value is None else f"{value:.3f}" for value in quality) if any(quality) else ""
    difference = found["max_difference"]
    return ["-" if difference is None else f"{difference:.0e} of a {sign}", str(found["flips"]), told]


def _note(results: dict[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    note = NOTE.format(rounds=settings["rounds"], images=settings["images"], **machine)
    others = [one["others"] for row in results["rows"] for one in row["samples"]]
    note += f" Other programs kept {statistics.median(others):.2f} cores busy meanwhile (median)." if others else ""
    note += f" {results['date'][:10]}, commit {machine['commit']}: `{results['command']}`."
    note += f" GPU: {machine['gpu']}." if machine["gpu"] else ""
    if results["absent"]:
        note += " Absent: " + "; ".join(f"{name} ({why})" for name, why in results["absent"].items()) + "."
    return note


def _page(tables: str, pictures: Sequence[Path]) -> str:
    images = "".join(
        f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        for path in pictures
    )
    head = f'<!doctype html><meta charset="utf-8"><title>medonnx benchmark</title><style>{STYLE}</style>'
    return f"{head}{_html(tables)}{images}\n"


def _html(tables: str) -> str:
    """Return the few forms of Markdown that `markdown` uses as HTML."""
    parts, rows = [], []
    for line in [*tables.splitlines(), ""]:
        if line.startswith("|"):
            if not line.startswith("|---"):
                kind = "td" if rows else "th"
                rows.append("".join(f"<{kind}>{escape(cell.strip())}</{kind}>" for cell in line.strip("|").split("|")))
            continue
        if rows:
            parts.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
            rows = []
        if line.startswith("### "):
            parts.append(f"<h2>{escape(line[4:])}</h2>")
        elif line:
            parts.append(f"<p>{escape(line)}</p>")
    return "\n".join(parts)
