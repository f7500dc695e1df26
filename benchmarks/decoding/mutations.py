"""Trial of the decoders on mutations of TIFF, BMP and DICOM: no crash, no hang, and no answer that others do not give.

    python -m benchmarks.decoding.mutations [--seed 1 2] [--count 20000] [--start 0] [--keep FOLDER] [--before PATH]

A mutation is known by its seed and number: `--seed S --start N --count 1 --keep FOLDER` writes its file again. Of each
file that is answered, a strict decoder must give the same pixels; those of DICOM by an explicit window, within 1 level.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from benchmarks.decoding.files.mutants import Mutant, mutant
from benchmarks.decoding.process import CPU_SECONDS, Child, Outcome, children, difference
from medinfer.progress import Progress

MEMORY = 1 << 30
WINDOWS = ((128.0, 256.0), (600.0, 256.0), (2048.0, 4096.0), (32768.0, 65536.0), (-500.0, 256.0))
PLUGINS = ("", "gdcm", "pylibjpeg", "pillow")
# The strictest first, then second opinions.
JUDGES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "tiff": (("tifffile", {}), ("Pillow", {})),
    "bmp": (("Pillow", {}),),
    "dicom": (*(("pydicom", {"plugin": plugin}) for plugin in PLUGINS), ("DCMTK", {})),
}
TOLERANCE = {"tiff": 0, "bmp": 0, "dicom": 1}
OTHER = "other pixels"
INTACT = "The pixels are those of the intact file; the others refuse what has no bearing on them."
# Format, layout and what the strict decoders say, one after the other: why the answer is right nevertheless.
EXPLAINED: tuple[tuple[str, str, str], ...] = (
    ("tiff", r"not a valid RESUNIT|coercing invalid ASCII", "The resolution and texts have no bearing on the pixels."),
    (
        "dicom",
        r"big-endian, palette: pydicom: other pixels",
        "pydicom takes the words of such a palette for little-endian.",
    ),
)


class Verdict(NamedTuple):
    """What came of a mutation: "refused", "agrees", "explained", "disagrees" or "failed", and why."""

    kind: str
    verdict: str
    why: str = ""


def main() -> int:
    """Run the trial and print its tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=20_000, help="Mutations of all seeds together.")
    parser.add_argument("--start", type=int, default=0, help="The first mutation of each seed.")
    parser.add_argument("--before", type=Path, help="A folder with the medinfer package of an earlier commit.")
    parser.add_argument("--keep", type=Path, help="Write the files of failures here; of a count of 1, the file.")
    options = parser.parse_args()
    each = -(-options.count // len(options.seed))
    verdicts: list[Verdict] = []
    codes: Counter[tuple[str, str]] = Counter()
    slowest, largest = (0.0, ""), (0, "")
    with children(options.before, None) as (ours, judge), Progress("Mutating", enabled=True) as progress:
        for seed in options.seed:
            for index in range(options.start, options.start + each):
                made = mutant(seed, index)
                window = Random(f"{seed} {index}").choice(WINDOWS)
                options_of_kind = {"window": window} if made.kind == "dicom" else {}
                outcome = ours.ask("medinfer", made.data, **options_of_kind)
                verdict = judged(made, outcome, judge, options_of_kind)
                if verdict.verdict == "disagrees" and OTHER not in verdict.why.split(" | ")[0]:
                    intact = ours.ask("medinfer", made.intact, **options_of_kind)
                    if np.array_equal(intact.pixels, outcome.pixels):
                        verdict = Verdict(made.kind, "explained", INTACT)
                verdicts.append(verdict)
                codes[made.kind, outcome.status] += 1
                case = f"seed {seed}, number {index}, {made.layout}"
                slowest, largest = max(slowest, (outcome.seconds, case)), max(largest, (outcome.grown, case))
                if verdict.verdict in ("failed", "disagrees"):
                    print(f"seed {seed}, number {index}, {made.layout}: {verdict.verdict}: {verdict.why}", flush=True)
                if options.keep and (options.count == 1 or verdict.verdict in ("failed", "disagrees")):
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{seed}-{index}.{made.kind}").write_bytes(made.data)
                progress.step()
    print(_tables(verdicts, codes))
    failures = sum(one.verdict in ("failed", "disagrees") for one in verdicts)
    print(f"\n{len(verdicts)} mutations of seeds {options.seed}: {failures} failures and disagreements, ", end="")
    print(f"at most {slowest[0]:.2f} s of CPU time ({slowest[1]}) and {largest[0] / 1e6:.0f} MB ({largest[1]})")
    return int(failures > 0)


def judged(made: Mutant, outcome: Outcome, judge: Child, options: dict[str, Any]) -> Verdict:
    """Compare an outcome with the limits and, if it is an answer, with the strict decoders."""
    if outcome.status in ("failed", "resource"):
        return Verdict(made.kind, "failed", outcome.detail)
    if outcome.seconds > CPU_SECONDS or outcome.grown > MEMORY:
        return Verdict(made.kind, "failed", f"{outcome.seconds:.1f} s, {outcome.grown >> 20} MB")
    if outcome.pixels is None:
        return Verdict(made.kind, "refused")
    said = []
    for decoder, its_options in JUDGES[made.kind]:
        name = " ".join((decoder, *its_options.values())).strip()
        second = judge.ask(decoder, made.data, **its_options, **options)
        off = None if second.pixels is None else difference(outcome.pixels, second.pixels)
        if off is not None and 0 <= off <= TOLERANCE[made.kind]:
            if not said:
                return Verdict(made.kind, "agrees")
            return Verdict(made.kind, "explained", f"{name} gives the same pixels; {_short(said[0])}")
        said.append(f"{name}: {second.detail}" if off is None else f"{name}: {_off(off, outcome, second)}")
    text = " | ".join(said)
    for kind, pattern, reason in EXPLAINED:
        if kind == made.kind and re.search(pattern, f"{made.layout}: {text}"):
            return Verdict(made.kind, "explained", reason)
    return Verdict(made.kind, "disagrees", text)


def _off(off: int, outcome: Outcome, second: Outcome) -> str:
    if off < 0 and outcome.pixels is not None and second.pixels is not None:
        return f"{OTHER}, {second.pixels.shape} in place of {outcome.pixels.shape}"
    return f"{OTHER}, by up to {off}"


def _short(text: str) -> str:
    """Return a message without its numbers and quoted values, to count its kind."""
    return re.sub(r"\s+", " ", re.sub(r"\(\w+\.py:\d+\)|<[^>]*>|'[^']*'|0x\w+|\d+(\.\d+)?", "_", text))[:100]


def _tables(verdicts: list[Verdict], codes: Counter[tuple[str, str]]) -> str:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str]] = Counter()
    for kind, verdict, why in verdicts:
        rows[kind][verdict] += 1
        if verdict == "explained":
            reasons[kind, why] += 1
    lines = ["| format | mutations | refused | answered, all agree | explained | disagreements | failures |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kind, row in sorted(rows.items()):
        cells = [row[name] for name in ("refused", "agrees", "explained", "disagrees", "failed")]
        lines.append(f"| {kind} | {row.total()} | {' | '.join(map(str, cells))} |")
    lines += ["", "| format | code | files |", "|---|---|---|"]
    lines += [f"| {kind} | {code} | {count} |" for (kind, code), count in sorted(codes.items())]
    if reasons:
        lines += [
            "",
            "| format | why an answer is right that the strictest decoder does not give | files |",
            "|---|---|---|",
        ]
        lines += [f"| {kind} | {why} | {count} |" for (kind, why), count in sorted(reasons.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
