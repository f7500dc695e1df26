"""A folder that grows: when the first record comes, how much memory is held after 1,000, 10,000 and 100,000 files.

    python -m benchmarks.growth [--files 100000]

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

from benchmarks.corpus import corpus
from benchmarks.settings import Subject
from benchmarks.subjects import FOLDER, prepare

MEDINFER = Path(sys.executable).with_name("medinfer")
POLL = 0.05


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    folder = _linked(corpus(FOLDER, "cells"), options.files)
    model = prepare(Subject(name="malaria_cnn"), 1).form("pixels")
    command = [str(MEDINFER), str(folder), "-m", str(model), "--provider", "cpu", "--quiet"]
    print(to_stream([*command, "--format", "jsonl"], options.files))
    with tempfile.TemporaryDirectory() as place:
        print(to_file([*command, "-o", f"{place}/results.csv"], Path(place) / "results.csv"))


def to_stream(command: list[str], files: int) -> str:
    """Run to standard output; returns a line of what was seen."""
    start, told, first = time.monotonic(), [], 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout, 1):
            first = first or time.monotonic() - start
            if count in (1000, 10_000, 100_000, files):
                told.append(f"{_resident(process.pid):.0f} MB after {count:,}")
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    memory = ", ".join(dict.fromkeys(told))
    return f"to a stream: first record after {first:.2f} s; {memory}; {files / seconds:.0f} images/s"


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
