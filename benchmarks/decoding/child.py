"""The program of a child process: it decodes the files that arrive on stdin, each with limits on time and memory."""

from __future__ import annotations

import faulthandler
import importlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.decoding.process import CPU_SECONDS, _receive, _send
from medinfer.errors import ImageError, ResourceError
from medinfer.spec import InputSpec

# The package moved; the earlier place is that of the code before.
PLACE = "medinfer.imaging" if find_spec("medinfer.imaging") else "medinfer.images"
ADDRESS_SPACE = 3 << 30  # protects the machine; growth over 1 GB is judged by the parent


def read(data: bytes | Path, *, window: tuple[float, float] | None = None, frame: int = 0) -> Any:
    """Decode by `medinfer`, the public way in."""
    dicom = {"frame": frame} if window is None else {"frame": frame, "window": window}
    spec = InputSpec(height=224, width=224, mean=(0.0,) * 3, std=(1.0,) * 3, dicom=dicom)
    return importlib.import_module(PLACE).read_image(data, spec)


def warm(_: bytes | Path) -> None:
    """Load what the decoders import when they are first called."""
    for name in ("cv2", "numpy", "pydicom", "pydicom.pixels", "PIL.BmpImagePlugin", "simplejpeg"):
        importlib.import_module(name)


DECODERS: dict[str, Callable[..., Any]] = {"medinfer": read, "warm": warm}


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.disable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module(PLACE)
    while True:
        try:
            decoder, data, options = _receive(requests)
        except EOFError:
            return
        _send(answers, _measured(decoder, data, options))


def _measured(decoder: str, data: bytes | Path, options: dict[str, Any]) -> tuple[Any, ...]:
    run = DECODERS.get(decoder) or importlib.import_module("benchmarks.decoding.strict").DECODERS[decoder]
    own = decoder in DECODERS
    _reset_peaks()
    before, start = _peak(), _tree_seconds()
    if own:
        allowed = _status("self", "VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, options.pop("cpu_seconds", CPU_SECONDS))
    status, detail, pixels = _outcome(run, data, options)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return status, detail, pixels, _tree_seconds() - start, max(0, _peak() - before)


def _outcome(run: Callable[..., Any], data: bytes | Path, options: dict[str, Any]) -> tuple[str, str, Any]:
    own = run in DECODERS.values()
    try:
        return "answer", "", run(data, **options)
    except ImageError as error:
        return error.code, error.message, None
    except ResourceError as error:
        return "resource", error.message, None
    except BaseException as error:  # noqa: BLE001 - any other exception is a finding
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})" if place else ""
        return "failed" if own else "refused", f"{type(error).__name__}: {error}{where}"[:300], None


def _descendants() -> Iterator[str]:
    """Yield the process ids of this process's children; medinfer runs some decoders in them."""
    for task in Path("/proc/self/task").iterdir():
        try:
            yield from (task / "children").read_text().split()
        except OSError:  # the thread has ended
            continue


def _tree_seconds() -> float:
    ticks = 0
    for process in _descendants():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _reset_peaks() -> None:
    for process in ("self", *_descendants()):
        try:
            Path(f"/proc/{process}/clear_refs").write_text("5")
        except OSError:
            continue


def _peak() -> int:
    return sum(_status(process, "VmHWM") for process in ("self", *_descendants()))


def _status(process: str, name: str) -> int:
    """Return a line of a process's status, in bytes."""
    try:
        return int(Path(f"/proc/{process}/status").read_text().split(f"{name}:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
