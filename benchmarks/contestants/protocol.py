"""How a contestant is asked, and what it answers. Needs Python alone: contestants run in environments of their own.

    python benchmarks/contestants/NAME.py TASK.json

A contestant is a class: made from a task, it answers one image, or many. `main` does the scenario with it and prints
one line of JSON. Times are seconds since the process was begun, latencies milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

WARM_UP = 10
Row = list[float]
"""One image's logits; or its probabilities, where the class has `answers = "probabilities"`."""


@dataclass(frozen=True)
class Task:
    """What is to be done."""

    scenario: str
    model: str
    images: list[str]
    threads: int
    batch: int
    height: int = 0
    width: int = 0
    """Of the network's input."""
    interpolation: str = "linear"
    """The contract's: linear, area or cubic."""
    provider: str = "cpu"
    tf32: bool = False
    arrivals: int = 100
    p99_ms: float = 100.0
    setting: str = ""
    """What distinguishes two entries of one contestant."""


class Contestant(Protocol):
    """A program under test."""

    def one(self, path: str) -> Row:
        """Answer one image."""

    def many(self, paths: list[str]) -> Iterable[Row]:
        """Answer many, in order, as fast as it can."""


def main(kind: Callable[[Task], Contestant]) -> None:
    """Do the task that the command line names."""
    started = float(os.environ.get("BENCHMARK_STARTED", time.time()))
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    contestant = kind(task)
    ready, cpu = time.time() - started, _cpu()
    told = SCENARIOS[task.scenario](contestant, task)
    told |= {"kind": getattr(contestant, "answers", "logits")}
    told |= {"ready": ready, "end": time.time() - started, "cpu": _cpu() - cpu, "peak_mb": _peak_mb()}
    if "first_at" in told:
        told["first"] = told.pop("first_at") - started
    if hasattr(contestant, "more"):
        told |= contestant.more()
    print(json.dumps(told), flush=True)


def offline(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Answer a folder; one image is a cold start."""
    answers, first_at = [], 0.0
    for row in contestant.many(task.images):
        first_at = first_at or time.time()
        answers.append(row)
    return {"answers": answers, "first_at": first_at}


def single(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Answer image after image, each measured from its path to its answer, and by stages where it has any."""
    for path in task.images[:WARM_UP]:
        contestant.one(path)
    answers, latencies, stages = [], [], []
    for path in task.images:
        start = time.perf_counter()
        answers.append(contestant.one(path))
        latencies.append(1000 * (time.perf_counter() - start))
        if hasattr(contestant, "stages"):
            stages.append(contestant.stages(path))
    return {"answers": answers, "latencies": latencies, "stages": stages}


def server(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Find the highest rate of random arrivals at which 99 of 100 are answered in time, doubling and then halving."""
    answers = [contestant.one(path) for path in task.images]  # warms up, and is held to the checkpoint
    held, step, rate = 0.0, 0.0, 8.0
    while True:
        if _p99(contestant, task, rate) <= task.p99_ms:
            held = rate
        else:
            step = step or rate
        if not step:
            rate *= 2
            continue
        step /= 2
        if step < 0.1 * max(held, 1.0):
            return {"rate": held, "answers": answers}
        rate = held + step


def _p99(contestant: Contestant, task: Task, rate: float) -> float:
    """Return the 99th percentile (nearest rank) of latencies, from the moment at which an image was due."""
    chance = random.Random(0)
    with ThreadPoolExecutor(task.threads or len(os.sched_getaffinity(0))) as pool:
        start, due, waiting = time.perf_counter(), 0.0, []
        for i in range(task.arrivals):
            due += chance.expovariate(rate)
            time.sleep(max(0.0, start + due - time.perf_counter()))
            path = task.images[i % len(task.images)]
            waiting.append(pool.submit(_latency, contestant, path, start + due))
        latencies = sorted(future.result() for future in waiting)
    return latencies[math.ceil(0.99 * len(latencies)) - 1]


def _latency(contestant: Contestant, path: str, due: float) -> float:
    contestant.one(path)
    return 1000 * (time.perf_counter() - due)


def chunked(items: list[str], size: int) -> Iterator[list[str]]:
    """Yield lists of `size` items, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _peak_mb() -> float:
    """Return the largest resident memory of this process, without its children's (Linux)."""
    # Not getrusage: that begins with what the parent held when it forked.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


SCENARIOS = {"offline": offline, "single": single, "server": server}
