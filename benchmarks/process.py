"""One contestant, one task, one process; and what machine it ran on."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medinfer.errors import MedonnxError
from medinfer.stream import available_cores

LONGEST = 1800
PACKAGES = ("medonnx", "onnxruntime", "onnxruntime-gpu", "numpy", "opencv-python-headless", "simplejpeg", "torch")


class ContestantError(MedonnxError):
    """A contestant ended with an error."""

    exit_code = 1


def run(python: Path, script: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Run a task; returns what the contestant reports, its wall time, and how many cores others kept busy meanwhile.

    Raises:
        ContestantError: It failed; the message ends with its own last words.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        own, busy, start = _children(), _busy(), time.time()
        done = subprocess.Popen(
            [python, script, file.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "BENCHMARK_STARTED": repr(start)},
            text=True,
        )
        try:
            output, words = done.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            done.kill()
            done.communicate()
            raise ContestantError(f"{script.name}: not done after {LONGEST} s") from None
        wall = time.time() - start
    if done.returncode:
        # The rest of a traceback tells of this machine's folders.
        said = [line.strip() for line in words.splitlines() if line.strip()][-1:]
        raise ContestantError(f"{script.name}: ended with {done.returncode}: {' '.join(said)}")
    try:
        told = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise ContestantError(f"{script.name}: ended without a report: {output[-200:]!r}") from None
    others = _busy() - busy - (_children() - own)
    return {**told, "wall": wall, "others": max(0.0, others / wall)}


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=12"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _gpu() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _children() -> float:
    """Return the CPU seconds of the processes that have ended under this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy() -> float:
    """Return the CPU seconds that all processes together have used since the machine started (Linux)."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, interrupts, soft, *_ = map(int, words)
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")
