"""Trial of the decoders on damaged pixel data: the share of damage that is noticed, by kind and format.

    python -m benchmarks.decoding.damage [--seed 0] [--count 500] [--before ../before/runtime] [--only TIFF]

Damage is noticed if it ends in a typed error. Damage that leaves all pixels as they were is harmless and is counted
apart; of the rest, each answer is wrong. A share is of the files whose damage is not harmless to that decoder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.decoding import images
from benchmarks.decoding.files import damaged
from benchmarks.decoding.files.damaged import KINDS, Sample
from benchmarks.decoding.process import Child, Outcome, children
from medinfer.progress import Progress

LARGE = ("512 random bytes", "512 zero bytes")
GDCM, PILLOW, OPENJPEG = (("pydicom", {"plugin": plugin}) for plugin in ("gdcm", "pillow", "pylibjpeg"))
DCMTK = ("DCMTK", {})


class Format(NamedTuple):
    """A row of the table: its files are `share` times the count; `others` are the decoders to compare with."""

    name: str
    share: float
    make: Callable[[Random], Sample]
    others: tuple[tuple[str, dict[str, Any]], ...]
    bounds: Mapping[str, float] = MappingProxyType({})
    finish: Callable[[bytes], bytes] = bytes


def _tiff(name: str, compression: str, predictor: int = 1, **bounds: float) -> Format:
    others = (("tifffile", {}), ("Pillow", {}))
    limits = {kind: bounds[key] for key in bounds for kind in (KINDS if key == "every" else LARGE)}
    return Format(f"TIFF {name}", 0.6, damaged.tiff(compression, predictor=predictor), others, limits)


def _dicom(name: str, *others: tuple[str, dict[str, Any]]) -> Format:
    return Format(f"DICOM {name}", 0.2, damaged.dicom(name), others)


FORMATS = (
    Format("JPEG", 1, damaged.jpeg, (("djpeg -strict", {}), ("Pillow", {})), dict.fromkeys((*LARGE, "cut"), 0.95)),
    _tiff("none", "none"),
    _tiff("LZW", "lzw", large=0.99),
    _tiff("deflate", "deflate", every=1),
    _tiff("deflate, predictor", "deflate", 2, every=1),
    _tiff("PackBits", "packbits"),
    _tiff("JPEG", "jpeg"),
    _tiff("Zstandard", "zstd"),
    _tiff("JPEG 2000", "jpeg 2000"),
    Format("PNG", 0.2, damaged.png, (("Pillow", {}),), dict.fromkeys(KINDS, 1.0)),
    Format(
        "PNG, right checksums",
        0.2,
        damaged.png_with_right_checksums,
        (("Pillow", {}),),
        finish=damaged.with_right_checksum,
    ),
    Format("WebP lossy", 0.1, damaged.webp(lossless=False), (("dwebp", {}), ("Pillow", {}))),
    Format("WebP lossless", 0.1, damaged.webp(lossless=True), (("dwebp", {}), ("Pillow", {}))),
    _dicom("JPEG baseline", GDCM, PILLOW, DCMTK),
    _dicom("JPEG lossless", GDCM, DCMTK),
    _dicom("JPEG-LS", GDCM, DCMTK),
    _dicom("JPEG 2000", GDCM, PILLOW, OPENJPEG),
    _dicom("RLE", ("pydicom", {"plugin": "pydicom"}), DCMTK),
    _dicom("native", ("pydicom", {}), DCMTK),
)


class Tally(NamedTuple):
    """The outcomes of one decoder on one kind of damage."""

    name: str
    counts: Counter[str]

    @property
    def share(self) -> float:
        """Share of the damage that is noticed; 1 if all is harmless."""
        harmful = self.counts["noticed"] + self.counts["wrong"] + self.counts["failed"]
        return self.counts["noticed"] / harmful if harmful else 1.0


def main() -> int:
    """Run the trial and print its tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="JPEG files; the other formats in proportion.")
    parser.add_argument("--before", type=Path, help="A folder with the medinfer package of an earlier commit.")
    parser.add_argument("--only", default="", help="Formats whose name contains this text.")
    parser.add_argument("--keep", type=Path, help="Write each file that is answered with wrong pixels here.")
    options = parser.parse_args()
    chosen = [row for row in FORMATS if options.only.lower() in row.name.lower()]
    problems: list[str] = []
    print(f"{images.source()}, seed {options.seed}\n")
    print("| format | damage | files | harmless | before | now | wrong now | strictest other decoder |")
    print("|---|---|---|---|---|---|---|---|")
    with children(options.before, None, None) as (before, now, other), Progress("Damaging", enabled=True) as progress:
        for row in chosen:
            trial = _Trial(row, {"before": before, "now": now} if options.before else {"now": now}, other, options.keep)
            for index in range(max(2, round(row.share * options.count))):
                trial.run(Random(f"{options.seed} {row.name} {index}"), f"{options.seed}-{row.name}-{index}")
                progress.step()
            problems += trial.report()
    for problem in problems:
        print(f"missed: {problem}")
    print(f"\n{len(chosen)} formats, {len(problems)} bounds missed")
    return int(bool(problems))


class _Trial:
    """One format through all decoders."""

    def __init__(self, row: Format, ours: dict[str, Child], other: Child, keep: Path | None) -> None:
        self.row, self.keep = row, keep
        self.decoders = {name: (child, "medinfer", {}) for name, child in ours.items()}
        for name, options in row.others:
            self.decoders[" ".join((name, *options.values()))] = (other, name, options)
        self.tallies: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self.unreadable: Counter[str] = Counter()

    def run(self, random: Random, label: str) -> None:
        """Damage one file in each way, and have each decoder read it."""
        sample = self.row.make(random)
        files = {kind: self.row.finish(damaged.damage(random, sample, kind)) for kind in KINDS}
        for name, (child, decoder, options) in self.decoders.items():
            whole = child.ask(decoder, sample.data, **options)
            if whole.status != "answer":
                self.unreadable[name] += 1
                continue
            for kind, data in files.items():
                verdict = _verdict(whole, child.ask(decoder, data, **options))
                self.tallies[kind][name][verdict] += 1
                if self.keep and name == "now" and verdict in ("wrong", "failed"):
                    self.keep.mkdir(parents=True, exist_ok=True)
                    (self.keep / f"{label}-{kind}-{verdict}".replace(" ", "_").replace(",", "")).write_bytes(data)

    def report(self) -> list[str]:
        """Print the rows of the format; returns the bounds that are missed."""
        problems = [f"{self.row.name}: {count} whole files are refused" for count in [self.unreadable["now"]] if count]
        for kind in KINDS:
            tallies = {name: Tally(name, counts) for name, counts in self.tallies[kind].items()}
            now, before = (tallies.pop(name, Tally(name, Counter())) for name in ("now", "before"))
            best = max(tallies.values(), key=lambda tally: tally.share, default=Tally("none", Counter()))
            cells = (self.row.name, kind, sum(now.counts.values()), now.counts["harmless"], _percent(before))
            cells += (_percent(now), now.counts["wrong"] + now.counts["failed"], f"{best.name} {_percent(best)}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            problems += self._missed(kind, now, best)
        for name, count in self.unreadable.items():
            print(f"{self.row.name}: {count} whole files are refused by {name}", file=sys.stderr)
        return problems

    def _missed(self, kind: str, now: Tally, best: Tally) -> Iterator[str]:
        place = f"{self.row.name}, {kind}"
        if now.counts["failed"]:
            yield f"{place}: {now.counts['failed']} crashes, hangs or untyped errors"
        if now.share < self.row.bounds.get(kind, 0):
            yield f"{place}: {_percent(now)} is noticed, not {self.row.bounds[kind]:.0%}"
        if best.share > now.share:
            yield f"{place}: {best.name} notices more: {_percent(best)} against {_percent(now)}"


def _verdict(whole: Outcome, outcome: Outcome) -> str:
    if outcome.status == "failed":
        return "failed"
    if outcome.status != "answer" or outcome.pixels is None or whole.pixels is None:
        return "noticed"
    return "harmless" if np.array_equal(whole.pixels, outcome.pixels) else "wrong"


def _percent(tally: Tally) -> str:
    return f"{tally.share:.1%}" if tally.counts else "-"


if __name__ == "__main__":
    sys.exit(main())
