"""Cases in child processes with limits, so that what kills, hangs or swallows memory is seen and told.

A child is forked from a parent that has imported everything; it takes cases until one kills it, or `PER_CHILD` of them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import onnxruntime  # noqa: F401 - imported once, before children are forked
from tests.faults import samples
from tests.faults.fuzz.cases import Case, case

import medinfer
from medinfer.errors import ImageError, MedonnxError, ResourceError
from medinfer.imaging import preprocess, read_image
from medinfer.spec import InputSpec

PER_CHILD = 500
SECONDS, WALL_SECONDS = 5, 120  # of processor time; of the clock, for a machine may be busy
MEMORY = 1 << 30

# A second contract that asks for the other branch wherever there is one.
OTHER = InputSpec(
    color="gray",
    height=12,
    width=16,
    mean=(0.5,),
    std=(0.25,),
    fit={"crop": {"resize": 20}},
    interpolation="area",
    depth16={"rule": "range", "low": 0, "high": 4095},
    alpha={"over": (10, 200, 90)},
    dicom={"window": (40, 400)},
)


class Outcome(NamedTuple):
    """What became of a case: `said` is "answer", the code of an error, or, where `failed`, what went wrong."""

    index: int
    kind: str
    sample: str
    said: str
    failed: bool
    seconds: float = 0.0
    grown: int = 0


def outcomes(seed: int, indices: Sequence[int]) -> Iterator[Outcome]:
    """Run cases in children, one after the other; a child that dies is a case's outcome, and the next goes on."""
    done = 0
    with tempfile.TemporaryDirectory() as folder:  # here, for a child that dies removes nothing
        while done < len(indices):
            for outcome in _child(seed, indices[done : done + PER_CHILD], Path(folder)):
                done += 1
                yield outcome


def _child(seed: int, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
    """Fork a child, and yield what it tells; at its death, the outcome of the case that it was at."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on it warns of threads that a child lacks: those of onnxruntime's and of a test runner's.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        _work(seed, indices, folder, writing)
    os.close(writing)
    told = 0
    with os.fdopen(reading) as lines:
        for line in lines:
            told += 1
            yield Outcome(*json.loads(line))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told < len(indices):
        last = case(seed, indices[told])
        yield Outcome(last.index, last.kind, last.sample, _death(status), failed=True)


def _death(status: int) -> str:
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return f"hangs: more than {SECONDS} s"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"left with exit code {status}"


def _work(seed: int, indices: Sequence[int], folder: Path, pipe: int) -> NoReturn:
    """Be the child: never returns."""
    code = 1
    faulthandler.disable()  # a death is told by the parent
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # decoders complain there
            os.dup2(null, stream)
        runs = _runs(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        allowed = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        for index in indices:
            told = _measured(case(seed, index), runs)
            os.write(pipe, (json.dumps(told) + "\n").encode())
        code = 0
    finally:
        os._exit(code)


def _runs(folder: Path) -> dict[str, Callable[[bytes], None]]:
    """Return what to do with a file, by its format: an image is classified, a model opened and run."""
    (folder / "model.onnx").write_bytes(samples.model())
    model = medinfer.load(folder / "model.onnx", "cpu", threads=1)
    picture = np.zeros((20, 20, 3), np.uint8)

    def classify(data: bytes) -> None:
        seen = model.predict(data)
        assert seen.label in samples.CLASSES
        assert abs(sum(seen.probabilities.values()) - 1) < 1e-3

    def prepare(data: bytes) -> None:
        tensor = preprocess(read_image(data, OTHER), OTHER)
        assert tensor.shape == (12, 16, 1)

    def open_model(data: bytes) -> None:
        path = folder / "damaged.onnx"
        path.write_bytes(data)
        medinfer.load(path, "cpu", threads=1).predict(picture)

    return {"classify": classify, "prepare": prepare, "onnx": open_model}


def _measured(one: Case, runs: dict[str, Callable[[bytes], None]]) -> Outcome:
    """Do one case, and tell what it took."""
    way = "onnx" if one.kind == "onnx" else ("classify", "prepare")[one.index // 20 % 2]
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before, start = _memory("VmRSS"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    said, failed = _said(runs[way], one.data)
    seconds = time.process_time() - start
    for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        signal.setitimer(timer, 0)
    grown = _memory("VmHWM") - before
    if grown > MEMORY:
        said, failed = f"grew by {grown >> 20} MB", True
    return Outcome(one.index, one.kind, one.sample, said, failed, seconds, grown)


def _said(run: Callable[[bytes], None], data: bytes) -> tuple[str, bool]:
    try:
        run(data)
    except ImageError as error:
        return error.code, False
    except ResourceError as error:
        return f"out of memory: {error}", True
    except MedonnxError as error:
        return type(error).__name__, False
    except BaseException as error:  # noqa: BLE001 - any other exception is what is looked for
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return f"{type(error).__name__}: {error} ({where})"[:300], True
    return "answer", False


def _memory(name: str) -> int:
    """Return a line of what the kernel tells of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024
