"""What every contestant of `benchmarks.throughput` reports. Imports nothing that a contestant has not: they run in
environments of their own, as `python benchmarks/contestants/NAME.py MODEL FOLDER IMAGES`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

# Set by the parent, in seconds since the epoch: the process begins before its first line does.
STARTED = float(os.environ.get("BENCHMARK_STARTED", time.time()))


def arguments() -> tuple[str, list[str]]:
    """Return the model's path and the images, in the order in which all contestants take them."""
    model, folder, count = sys.argv[1:4]
    return model, sorted(str(path) for path in Path(folder).iterdir())[: int(count)]


class Clock:
    """Seconds since the process began: ready to take images, first answer, everything answered."""

    def __init__(self) -> None:
        self.ready = time.time() - STARTED
        self.first: float | None = None
        self.end = 0.0
        self.labels: list[int] = []
        self._cpu = time.process_time()

    def answered(self, scores: Iterable[Sequence[float]]) -> None:
        """Take down the answers on the next images: a row of scores each."""
        self.first = self.first or time.time() - STARTED
        self.labels += [max(range(len(row)), key=row.__getitem__) for row in scores]

    def stop(self) -> None:
        """Take the time at which all is done."""
        self.end = time.time() - STARTED
        self._cpu = time.process_time() - self._cpu

    def report(self, **more: object) -> None:
        """Print everything as JSON, the last line that a contestant writes; stops the clock if nobody has."""
        if not self.end:
            self.stop()
        told = {"ready": self.ready, "first": self.first, "end": self.end, "cpu": self._cpu, "labels": self.labels}
        print(json.dumps({**told, "peak_mb": _peak_mb(), **more}), flush=True)


def _peak_mb() -> float:
    """Return the largest resident memory of this process; of its children nothing (Linux)."""
    # Not getrusage: that begins with what the parent held when it forked.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
