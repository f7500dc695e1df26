"""Child processes that decode one file after another; a crash or a hang ends a child and is the outcome of one file."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
LENGTH = struct.Struct("<Q")
CPU_SECONDS, WALL_SECONDS = 5, 120

Pixels = npt.NDArray[Any]


class Outcome(NamedTuple):
    """The outcome of one file.

    `status` is "answer", the code of an error, "refused" by another decoder, or "failed": a crash, a hang, another
    exception; `detail` says more. Seconds are of CPU time, `grown` is in bytes; both include children of the child.
    """

    status: str
    detail: str = ""
    pixels: Pixels | None = None
    seconds: float = 0.0
    grown: int = 0


class Child:
    """A child process with the program `child.py`.

    Args:
        runtime: A folder that holds another `medinfer` package, as `../before/runtime`; None for the installed one.
    """

    def __init__(self, runtime: Path | None = None) -> None:
        self._runtime = runtime
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def ask(self, decoder: str, data: bytes | Path, **options: Any) -> Outcome:
        """Decode one file.

        Args:
            decoder: A name in `child.DECODERS` or `strict.DECODERS`.
            data: The bytes of a file, or its path.
            options: Of the decoder.
        """
        process = self._process = self._process or self._start()
        before = _ended_seconds()
        clock = threading.Timer(WALL_SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            _send(process.stdin, (decoder, data, options))
            return Outcome(*_receive(process.stdout))
        except (OSError, EOFError):
            self._process = None
            return Outcome("failed", self._death(process), seconds=_ended_seconds() - before)
        finally:
            clock.cancel()

    def close(self) -> None:
        """End the child."""
        if self._process and self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(ROOT)] if self._runtime is None else [str(self._runtime), str(ROOT)]
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.decoding.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        )

    def _death(self, process: subprocess.Popen[bytes]) -> str:
        status = process.wait()
        if status in (-signal.SIGPROF, -signal.SIGKILL):
            return (
                "hang: more CPU time than allowed"
                if status == -signal.SIGPROF
                else f"hang: {WALL_SECONDS} s, or killed"
            )
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        last = lines[-1] if lines else ""
        return f"crash: {signal.Signals(-status).name}" if status < 0 else f"exit code {status}: {last}"


@contextmanager
def children(*runtimes: Path | None) -> Iterator[list[Child]]:
    """Yield a child for each runtime, and end them."""
    started = [Child(runtime) for runtime in runtimes]
    try:
        yield started
    finally:
        for child in started:
            child.close()


def _ended_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _send(stream: Any, message: Any) -> None:
    body = pickle.dumps(message)
    stream.write(LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def _receive(stream: Any) -> Any:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return pickle.loads(body)


def difference(pixels: Pixels, expected: Pixels) -> int:
    """Return the largest difference of two images, or -1 if their sizes differ.

    Gray equals RGB of three equal channels. Where only one of them has 16 bits, its high bytes are compared.
    """
    if pixels.shape[:2] != expected.shape[:2]:
        return -1
    if pixels.ndim != expected.ndim:
        pixels, expected = (image if image.ndim == 3 else image[..., None] for image in (pixels, expected))
    if pixels.dtype != expected.dtype:
        pixels, expected = (image >> 8 if image.dtype == np.uint16 else image for image in (pixels, expected))
    return int(np.abs(pixels.astype(np.int32) - expected.astype(np.int32)).max(initial=0))
