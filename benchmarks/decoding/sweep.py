"""Sweep over intact files of all layouts: each is equal to what was written, or refused for a known reason.

    python -m benchmarks.decoding.sweep [--seed 0] [--count 3000] [--before ../before/runtime] [--only TIFF]

What was written decides; if the compression loses some of it, a second decoder does, with the same pixels.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

from benchmarks.decoding.layouts import bmp, dicom, jpeg, png, tiff, webp
from benchmarks.decoding.layouts.case import Case, Layouts
from benchmarks.decoding.process import Child, children, difference
from medinfer.progress import Progress

# Layout, code: reason.
REFUSALS = {
    (r"TIFF .*premultiplied.*", "unsupported_format"): "The colors were multiplied by the alpha, which loses them.",
    (r"TIFF .*unspecified.*", "unsupported_format"): "The colors may be multiplied by the fourth sample.",
    (r"TIFF .*CMYK 16 bit", "unsupported_dtype"): "No conversion of 16-bit CMYK is agreed on.",
    (r"TIFF of several images|APNG|WebP, animated", "multi_frame"): "The file holds several images.",
    (r"TIFF lerc.*", "unsupported_format"): "LERC is for elevation models; readers differ on its byte order.",
    (r"BMP .*", "unsupported_format"): "Pillow does not read these bit masks or this header.",
    (r"BMP RLE.*empty rows", "corrupt"): "Pillow takes an empty row for no row, and then misses a row.",
    (r"JPEG .*(4x2|luma coarser)", "unsupported_format"): "The TurboJPEG interface has no name for this sampling.",
}


def main() -> int:
    """Run the sweep and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000, help="Files, at least; in whole rounds over all layouts.")
    parser.add_argument("--before", type=Path, help="A folder with the medinfer package of an earlier commit.")
    parser.add_argument("--only", default="", help="Layouts whose name contains this text.")
    parser.add_argument("--keep", type=Path, help="Write the files of failures here.")
    parser.add_argument("--grouped", action="store_true", help="One row for all layouts that differ after the comma.")
    options = parser.parse_args()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    failures: list[str] = []
    with children(options.before, None) as (ours, other), Progress("Sweeping", enabled=True) as progress:
        for number, (layout, case) in enumerate(cases(options.seed, options.count, options.only)):
            verdict, said = judge(layout, case, ours, other)
            rows[layout]["files"] += 1
            rows[layout][verdict] += 1
            rows[layout][f"other {said}"] += 1
            if verdict.startswith("failure"):
                failures.append(f"{number} {layout}: {verdict}")
                _keep(options.keep, f"{options.seed}-{number}-{layout}", case.data)
            progress.step()
    print(_table(_grouped(rows) if options.grouped else rows))
    for failure in failures:
        print(failure)
    files = sum(row["files"] for row in rows.values())
    wrong = sum(bool(re.search(r"failure: (off|\(|uint)", failure)) for failure in failures)
    print(f"\n{files} files of {len(rows)} layouts, seed {options.seed}: {len(failures)} unexplained, ", end="")
    print(f"{wrong} of them answers with other pixels")
    return int(bool(failures))


def cases(seed: int, count: int, only: str) -> Iterator[tuple[str, Case]]:
    """Yield files in rounds over all layouts, until there are as many as asked for; of fewer, a random choice."""
    makers: Layouts = [maker for part in (tiff, bmp, png, jpeg, webp, dicom) for maker in part.layouts()]
    makers = [maker for maker in makers if only.lower() in maker[0].lower()]
    rounds = -(-count // len(makers)) if count >= len(makers) else 1
    for turn in range(rounds):
        chosen = makers if count >= len(makers) else Random(seed).sample(makers, count)
        for place, (layout, make) in enumerate(chosen):
            yield layout, make(Random(f"{seed} {turn} {layout} {place}"))


def judge(layout: str, case: Case, ours: Child, other: Child) -> tuple[str, str]:
    """Return what came of a file, and whether the second decoder agrees with what was written."""
    outcome = ours.ask("medinfer", case.data, **case.options)
    second = other.ask(case.other, case.data, **case.options, **case.other_options) if case.other else None
    expected = case.expected
    said = "none"
    if second is not None:
        said = "refuses" if second.pixels is None else "agrees"
        if second.pixels is not None and expected is not None:
            said = "agrees" if 0 <= difference(second.pixels, expected) <= case.tolerance else "differs"
        expected = second.pixels if expected is None else expected
    if outcome.status != "answer" or outcome.pixels is None:
        return _refusal(layout, outcome.status, outcome.detail), said
    if expected is None:
        return f"failure: nothing to compare with: {second.detail if second else ''}", said
    off = difference(outcome.pixels, expected)
    exact = case.expected is not None or case.tolerance == 0
    if off < 0:
        return f"failure: {outcome.pixels.shape} in place of {expected.shape}", said
    if off > (0 if exact else case.tolerance):
        return f"failure: off by {off}; {case.other} {said}", said
    deep = case.expected is not None and case.expected.dtype != outcome.pixels.dtype
    return (f"failure: {outcome.pixels.dtype}" if deep else "equal"), said


def _refusal(layout: str, code: str, detail: str) -> str:
    for (pattern, known), reason in REFUSALS.items():
        if known == code and re.fullmatch(pattern, layout):
            return f"refused, {code}: {reason}"
    return f"failure: {code}: {detail}"


def _grouped(rows: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    groups: dict[str, list[Counter[str]]] = defaultdict(list)
    for layout, row in rows.items():
        groups[layout.split(",")[0]].append(row)
    return {
        f"{name} ({len(group)} layouts)" if len(group) > 1 else name: sum(group, Counter())
        for name, group in groups.items()
    }


def _table(rows: dict[str, Counter[str]]) -> str:
    lines = ["| layout | files | equal | refused | second decoder agrees |", "|---|---|---|---|---|"]
    for layout, row in rows.items():
        refused = "; ".join(f"{count} {text[9:]}" for text, count in row.items() if text.startswith("refused"))
        said = ", ".join(f"{name[6:]} {count}" for name, count in row.items() if name.startswith("other"))
        lines.append(f"| {layout} | {row['files']} | {row['equal']} | {refused} | {said} |")
    return "\n".join(lines)


def _keep(folder: Path | None, name: str, data: bytes) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / re.sub(r"[^\w.-]+", "_", name)).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
