"""Decoders that have crashed, or may: run in a child process, with limits on its CPU time and memory.

A child lives as long as this process and decodes one frame after another; a crash ends the child and is the error of
one image. There are as many children as threads that decode at once.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageCode, ImageError
from medinfer.imaging._decoder_process import LENGTHS, answer
from medinfer.imaging._limits import decoder_bytes, decoder_seconds

PROGRAM = Path(__file__).with_name("_decoder_process.py")
PIPE_BYTES = 1 << 20  # a frame at a time, and not 64 KiB
WALL_FACTOR, WALL_SECONDS = 20, 60
"""A child that uses no CPU time at all is ended by the clock, so late that a busy machine does not matter."""

Answer = tuple[dict[str, Any], bytes | memoryview]
_idle: dict[int, deque[_Decoder]] = {}
"""Children that wait for work, by the process that started them: a fork inherits them and must not use them."""


def decode_isolated(codec: str, data: bytes, *, pixels: int, extra: str = "dicom", **options: Any) -> npt.NDArray[Any]:
    """Decode a codestream in a child process.

    Args:
        codec: One of `_decoder_process.CODECS`.
        data: The codestream.
        pixels: Width times height, which the limits grow with.
        extra: The extra that brings the decoder.
        options: Of the decoder, as JSON values.

    Returns:
        The samples as the codestream holds them, (H, W) or (H, W, samples); of a codec of plain bytes uint8 (N,).

    Raises:
        ImageError: `corrupt` (refused, or the decoder crashed), `too_large` (more CPU time or memory than allowed),
            `missing_extra`, `os_error` (no child process can be started).
    """
    if not can_isolate():
        hint = f'Install it: pip install "medonnx[{extra}]"'
        raise ImageError("missing_extra", f"no decoder for {codec}: imagecodecs is not installed", hint=hint)
    python = _python()
    header, body = _ask(python, codec, data, pixels, options) if python else _in_process(codec, data, options)
    if "error" in header:
        code: ImageCode = "too_large" if header["error"] == "too_large" else "corrupt"
        raise ImageError(code, f"the {codec} data does not decode: {header.get('message') or 'not enough memory'}")
    return np.frombuffer(body, header["dtype"]).reshape(header["shape"])


def can_isolate() -> bool:
    """Tell whether the decoders are installed."""
    return find_spec("imagecodecs") is not None


def _python() -> str:
    """Return the path of the interpreter; empty inside a program that only embeds it (frozen, or a web server)."""
    name = os.path.basename(sys.executable or "").lower()
    return "" if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")) else sys.executable


def _in_process(codec: str, data: bytes, options: dict[str, Any]) -> Answer:
    """Decode without isolation."""
    import imagecodecs

    if codec == "htj2k":  # its errors show in a process of its own only
        raise ImageError("unsupported_format", "htj2k is decoded by a Python interpreter, and this program is none")
    return answer(imagecodecs, codec, data, options)


def _ask(python: str, codec: str, data: bytes, pixels: int, options: dict[str, Any]) -> Answer:
    """Have a child answer; raises ImageError if it ends instead."""
    seconds = decoder_seconds(pixels)
    request = {"codec": codec, "options": options, "seconds": seconds, "bytes": decoder_bytes(pixels)}
    text, wall_seconds = json.dumps(request).encode("ascii"), WALL_SECONDS + WALL_FACTOR * seconds
    idle = _idle.setdefault(os.getpid(), deque())
    with suppress(IndexError, _EndedError):  # a child may have been ended from outside while it was idle
        return _returned(idle, idle.pop(), text, data, wall_seconds)
    try:
        return _returned(idle, _Decoder(python), text, data, wall_seconds)
    except _EndedError as error:
        if error.code == -getattr(signal, "SIGXCPU", math.inf):
            raise ImageError("too_large", f"the {codec} data takes more than {seconds:g} s of CPU time") from None
        raise ImageError("corrupt", f"the {codec} decoder crashed ({error})") from None


def _returned(idle: deque[_Decoder], decoder: _Decoder, request: bytes, data: bytes, wall_seconds: float) -> Answer:
    """Return a child's answer, and the child to the others that wait."""
    found = decoder.ask(request, data, wall_seconds)
    idle.append(decoder)
    return found


class _EndedError(Exception):
    """A child that ended instead of answering; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(signal.Signals(-code).name if code < 0 else f"exit code {code}")
        self.code = code


class _Decoder:
    """A child process that decodes."""

    def __init__(self, python: str) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [python, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                pipesize=PIPE_BYTES,
            )
        except OSError as error:
            raise ImageError("os_error", f"no process for the decoder: {error.strerror}") from None

    def ask(self, request: bytes, data: bytes, wall_seconds: float) -> Answer:
        """Return the header and the body of the answer; raises _EndedError."""
        clock = threading.Timer(wall_seconds, self._process.kill)
        clock.daemon = True
        clock.start()
        try:
            return self._exchange(request, data)
        except (OSError, EOFError):
            self.close()
            raise _EndedError(self._process.returncode) from None
        finally:
            clock.cancel()

    def _exchange(self, header: bytes, data: bytes) -> Answer:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(LENGTHS.pack(len(header), len(data)) + header)
        to.write(data)
        to.flush()
        lengths = back.read(LENGTHS.size)
        if len(lengths) < LENGTHS.size:
            raise EOFError
        size, count = LENGTHS.unpack(lengths)
        text, body = back.read(size), back.read(count)
        if len(body) < count:
            raise EOFError
        return json.loads(text), body

    def close(self) -> None:
        """End the child."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what was not yet written, to a child that is gone
                continue
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@atexit.register
def _close_all() -> None:
    for decoder in _idle.pop(os.getpid(), ()):
        decoder.close()
