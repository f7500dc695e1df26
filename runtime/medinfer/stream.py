"""The engine: an ordered, bounded map over chunks. There are no stages.

Each worker takes the next chunk through everything (read, decode, resize, run). That keeps every core busy with no
queue to tune: on two cores it reaches 0.9 and more of what decoding, resizing and running cost together.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

# Imported here, on the importing thread: two workers importing numpy at once meet a half-made module.
import numpy  # noqa: F401

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNKS_AHEAD = 2


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """Yield function(item) for each item, in order, computed on `workers` threads.

    At most `CHUNKS_AHEAD` items a worker are in flight, so memory does not grow with their number. An exception of
    `function` or of `items` is raised in its place. Closing the iterator waits for the items already begun.
    """
    if workers == 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # brings logging: 9 ms that one image need not wait for

    pending: deque[Future[Result]] = deque()
    failure: Exception | None = None
    iterator = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="medinfer") as pool:
        try:
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                except Exception as error:  # noqa: BLE001 - raised below, after the results of the items before it
                    failure = error
                    break
                pending.append(pool.submit(function, item))
                # What is done goes out at once: a slow source (a camera) must not hold back finished results.
                while pending and (pending[0].done() or len(pending) >= CHUNKS_AHEAD * workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if failure:
                raise failure
        finally:
            for future in pending:
                future.cancel()


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter; lazily."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, capped by the control group's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota else cores


def _cgroup_quota() -> float | None:
    """Return the CPU quota in cores of a version 2 control group, as a container sees it; None where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
