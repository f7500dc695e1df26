"""How long until `medinfer` says its first word, against what the imports and one run cost anyway.

    python -m benchmarks.cold_start MODEL.onnx [IMAGE] [--rounds N]

Contestants take turns, each in a fresh process; medians, and the ratios that matter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What any program that runs this model must do: import, open the session as the runtime does, run once.
BARE = """
import numpy, cv2, onnxruntime, click
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
shape = session.get_inputs()[0].shape
session.run(None, {{"image": numpy.zeros([1, *shape[1:]], numpy.uint8)}})
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image", nargs="?")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or _drawn_image(Path(folder))
        contestants = {
            "import click": [sys.executable, "-c", "import click"],
            "medinfer --help": [_script("medinfer"), "--help"],
            "imports + session + one run": [sys.executable, "-c", BARE.format(model=options.model)],
            "medinfer one.png": [_script("medinfer"), image, "--model", options.model, "--provider", "cpu"],
        }
        medians = _measure(contestants, options.rounds, _environment(folder))
    for name, seconds in medians.items():
        print(f"{name:28} {1000 * seconds:7.0f} ms")
    print(f"--help / import click: {medians['medinfer --help'] / medians['import click']:.2f}")
    print(f"one.png / bare: {medians['medinfer one.png'] / medians['imports + session + one run']:.2f}")


def _environment(folder: str) -> dict[str, str]:
    """Return an environment where every module has its bytecode, as pip leaves it; a checkout's own has none."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}


def _measure(contestants: dict[str, list[str]], rounds: int, environment: dict[str, str]) -> dict[str, float]:
    """Return the median wall time of each, taking turns; the first round warms the page cache and is dropped."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, command in contestants.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _drawn_image(folder: Path) -> str:
    import cv2
    import numpy as np

    path = folder / "one.png"
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (128, 1))
    cv2.imwrite(str(path), np.dstack([ramp, ramp.T, 255 - ramp]))
    return str(path)


if __name__ == "__main__":
    main()
