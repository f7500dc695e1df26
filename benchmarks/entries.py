"""Who takes part: the programs in `contestants/`, the form of the network each takes, and where each runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.settings import Setting
from medinfer.errors import UsageError

SCRIPTS = Path(__file__).parent / "contestants"
OWN = Path(sys.executable)
# `make peers` creates it.
PEERS = Path("build/peers/bin/python")
OURS_ON_OPENVINO = Path("build/openvino/bin/python")


@dataclass(frozen=True)
class Entry:
    """One contestant."""

    name: str
    title: str
    script: str
    takes: str = "pixels"
    python: Path = OWN
    needs: str = "onnxruntime"
    """The module without which it is absent."""
    setting: str = ""
    scenarios: tuple[str, ...] = ("cold", "single", "offline")
    providers: tuple[str, ...] = ("cpu",)
    varies: tuple[str, ...] = ()
    """What of a setting it heeds."""
    batch: int = 0
    """Its own best, where a setting leaves it open."""
    agrees: bool = True
    """Whether its answers are held to the checkpoint's; those of the limit are nobody's."""

    def runs(self, setting: Setting) -> bool:
        """Tell whether it can run that way."""
        heeded = all(name in self.varies or not getattr(setting, name) for name in ("tf32", "batch", "threads"))
        return heeded and setting.scenario in self.scenarios and setting.provider in self.providers

    @property
    def absence(self) -> str:
        """Why it cannot take part; empty if it can."""
        if not self.python.exists():
            return f"{self.python} is not there: make peers"
        return "" if _importable(self.python, self.needs) else f"{self.python} has no {self.needs}: make peers"


BOTH = ("cpu", "cuda")
ALL = ("cold", "single", "offline", "server")
ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("limit", "the limit", "limit.py", scenarios=("offline",), agrees=False),
        Entry("medinfer", "medinfer", "ours.py", scenarios=ALL, providers=BOTH, varies=("tf32", "batch", "threads")),
        Entry(
            "command", "medinfer, to a CSV", "command.py",
            scenarios=("offline",), providers=BOTH, varies=("tf32", "batch", "threads"),
        ),
        Entry("naive", "naive loop", "naive.py", "float", scenarios=ALL, providers=BOTH),
        Entry(
            "medinfer-openvino", "medinfer on OpenVINO, f32", "ours.py", python=OURS_ON_OPENVINO, setting="openvino",
            scenarios=ALL, varies=("batch", "threads"),
        ),
        Entry(
            "medinfer-openvino-bf16", "medinfer on OpenVINO, bf16", "ours.py", python=OURS_ON_OPENVINO,
            setting="openvino, bf16", scenarios=ALL, varies=("batch", "threads"),
        ),
        Entry("openvino", "OpenVINO, f32", "openvino_async.py", python=PEERS, needs="openvino"),
        Entry("ultralytics", "Ultralytics", "ultralytics_predict.py", "float", PEERS, "ultralytics"),
        Entry(
            "ultralytics-16", "Ultralytics, batch 16", "ultralytics_predict.py", "float", PEERS, "ultralytics",
            scenarios=("offline",), batch=16,
        ),
        Entry("optimum", "Optimum pipeline", "optimum_pipeline.py", "hf", PEERS, "optimum.onnxruntime"),
        Entry(
            "torch", "PyTorch eager", "torch_eager.py", "checkpoint", needs="torch",
            providers=BOTH, varies=("tf32", "batch"),
        ),
        Entry(
            "torch-compile", "PyTorch compiled", "torch_eager.py", "checkpoint", needs="torch", setting="compile",
            providers=BOTH, varies=("tf32", "batch"),
        ),
    )
}  # fmt: skip


def entries(names: tuple[str, ...]) -> tuple[list[Entry], dict[str, str]]:
    """Return the contestants that can take part, the limit first, and why the others cannot.

    Raises:
        UsageError: A name is not known.
    """
    unknown = [name for name in names if name not in ENTRIES]
    if unknown:
        raise UsageError(f"contestants: {', '.join(unknown)} not known", hint=f"There is {', '.join(ENTRIES)}.")
    wanted = [ENTRIES[name] for name in dict.fromkeys(("limit", *names))]
    absent = {entry.title: entry.absence for entry in wanted if entry.absence}
    return [entry for entry in wanted if entry.title not in absent], absent


@cache
def _importable(python: Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0
