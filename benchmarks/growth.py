"""A folder that grows: when the first record comes, how fast it goes and how much memory is held after so many files.

    python -m benchmarks.growth [--files 100000] [--plot growth.png]

The files are links to 600 drawn cells; the network is the smallest, so that everything around it shows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpus import corpus
from benchmarks.settings import Subject
from benchmarks.subjects import FOLDER, prepare

MEDINFER = Path(sys.executable).with_name("medinfer")
POLL = 0.05


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--plot", type=Path, help="Draw it, as PNG.")
    options = parser.parse_args()
    folder = _linked(corpus(FOLDER, "cells"), options.files)
    model = prepare(Subject(name="malaria_cnn"), 1).form("pixels")
    command = [str(MEDINFER), str(folder), "-m", str(model), "--provider", "cpu", "--quiet"]
    marks = to_stream([*command, "--format", "jsonl"], options.files)
    print(f"to a stream: first record after {marks[0].seconds:.2f} s; " + "; ".join(map(str, marks[1:])))
    if options.plot:
        draw(marks[1:], options.plot)
    with tempfile.TemporaryDirectory() as place:
        print(to_file([*command, "-o", f"{place}/results.csv"], Path(place) / "results.csv"))


class Mark(NamedTuple):
    """What was seen when a record came: how many there were, since when, and how much memory was held."""

    files: int
    seconds: float
    mb: float
    first: float

    @property
    def rate(self) -> float:
        """Images a second since the first record."""
        return self.files / max(self.seconds - self.first, 1e-9)

    def __str__(self) -> str:
        return f"{self.mb:.0f} MB and {self.rate:.0f} images/s after {self.files:,}"


def to_stream(command: list[str], files: int) -> list[Mark]:
    """Run to standard output; returns a mark at the first record, and at each power of ten from 100 on."""
    start, marks = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout, 1):
            if count in {1, 100, 1000, 10_000, 100_000, files}:
                seconds = time.monotonic() - start
                marks.append(Mark(count, seconds, _resident(process.pid), marks[0].seconds if marks else seconds))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return marks


def draw(marks: list[Mark], path: Path) -> None:
    """Draw memory and speed by the number of files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, name, values in zip(
        figure.subplots(1, 2),
        ("resident memory, MB", "images/s since the first record"),
        ([mark.mb for mark in marks], [mark.rate for mark in marks]),
        strict=True,
    ):
        axes.plot([mark.files for mark in marks], values, marker="o")
        axes.set(xscale="log", xlabel="files", title=name, ylim=(0, 1.2 * max(values)))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def to_file(command: list[str], output: Path) -> str:
    """Run into a file by way of its journal; returns a line of what was seen."""
    seen: list[tuple[float, float]] = []
    start, first = time.monotonic(), 0.0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(POLL)
            journals = [entry.stat().st_size for entry in _present(output.parent) if entry.name != output.name]
            # The first line is the header.
            if not first and max(journals, default=0) > 1500:
                first = time.monotonic() - start
            if size := max(journals, default=0):
                seen.append((size, _resident(process.pid)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    last = seen[-1][0]
    parts = ((share, next(memory for size, memory in seen if size >= share * last)) for share in (0.01, 0.1, 1.0))
    return f"to a file: first record after {first:.2f} s; " + ", ".join(
        f"{mb:.0f} MB at {share:.0%}" for share, mb in parts
    )


def _present(folder: Path) -> list[os.DirEntry[str]]:
    """Return the files of a folder that have not gone while it was read."""
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            entry.stat()
            found.append(entry)
    return found


def _linked(images: Path, files: int) -> Path:
    """Return a folder of so many names for the same images."""
    folder = images.with_name(f"links-{files}")
    names = sorted(images.iterdir())
    folder.mkdir(exist_ok=True)
    for i in range(len(list(folder.iterdir())), files):
        os.link(names[i % len(names)], folder / f"{i:07}.png")
    return folder


def _resident(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 once it is gone (Linux)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    main()
