"""Trial of the decoders on files that are slow or large by intent: CPU time and memory, each in its own process.

    python -m benchmarks.decoding.slow [--count 0] [--seed 0] [--before ../before/runtime] [--only TIFF]

Each file is read by its path. Both figures include the child processes that medinfer decodes in; memory is the growth
over the process after its imports.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from random import Random

from benchmarks.decoding.files.slow import WRITERS
from benchmarks.decoding.process import Child, Outcome

SECONDS, MEMORY, ALLOWED = 2.0, 10**9, 60


def main() -> int:
    """Run the trial and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=0, help="So many of the files, at random; 0 is all.")
    parser.add_argument("--seed", type=int, default=0, help="Of that choice.")
    parser.add_argument("--before", type=Path, help="A folder with the medinfer package of an earlier commit.")
    parser.add_argument("--only", default="", help="Files whose name contains this text.")
    options = parser.parse_args()
    names = [name for name in WRITERS if options.only.lower() in name.lower()]
    if options.count:
        names = Random(options.seed).sample(names, min(options.count, len(names)))
    over: list[str] = []
    print("| file | size, MB | before: CPU, s | memory, MB | result | now: CPU, s | memory, MB | result |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        ending, write = WRITERS[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"slow.{ending}"
            write(path)
            size = path.stat().st_size / 1e6
            before = _cells(_read(path, options.before)) if options.before else ("-", "-", "-")
            now = _read(path, None)
        print(f"| {name} | {size:.1f} | {' | '.join(before)} | {' | '.join(_cells(now))} |", flush=True)
        if now.status in ("failed", "resource") or now.seconds > SECONDS or now.grown > MEMORY:
            over.append(f"{name}: {now.status} {now.detail}")
    for line in over:
        print(f"missed: {line}")
    print(f"\n{len(names)} files, {len(over)} over {SECONDS:g} s or {MEMORY / 1e9:g} GB")
    return int(bool(over))


def _read(path: Path, runtime: Path | None) -> Outcome:
    """Read a file in a process of its own, which has loaded its decoders."""
    child = Child(runtime)
    try:
        child.ask("warm", b"")
        return child.ask("medinfer", path, cpu_seconds=ALLOWED)
    finally:
        child.close()


def _cells(outcome: Outcome) -> tuple[str, str, str]:
    shown = outcome.detail if outcome.status == "failed" else outcome.status
    return f"{outcome.seconds:.2f}", f"{outcome.grown / 1e6:.0f}", shown[:60]


if __name__ == "__main__":
    sys.exit(main())
