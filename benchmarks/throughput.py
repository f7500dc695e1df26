"""Images a second over a folder, against the machine's limit and the loop that everybody writes first.

    python -m benchmarks.throughput MODEL.onnx FOLDER [--rounds N]

limit = cores / (read + decode + preprocess + run, each on one thread). The contestants take turns on the same files,
after the session is open; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import onnxruntime

import medinfer
from medinfer.images import read_image
from medinfer.stream import available_cores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = medinfer.load(options.model, "cpu")
    paths = list(medinfer.find_images(options.folder))
    naive = _naive(options.model, model.spec)
    contestants: dict[str, Callable[[], None]] = {
        "parts": lambda: _parts(model, paths),
        "medinfer": lambda: _drain(model, paths),
        "naive loop": lambda: [naive(path) for path in paths] and None,
    }
    seconds = {name: _median(times) for name, times in _measure(contestants, options.rounds).items()}
    limit = available_cores() * len(paths) / seconds["parts"]
    print(f"{len(paths)} images, {available_cores()} cores, {model.spec.name}")
    print(f"limit      {limit:8.0f} images/s")
    for name in ("medinfer", "naive loop"):
        rate = len(paths) / seconds[name]
        print(f"{name:10} {rate:8.0f} images/s  {rate / limit:.2f} of the limit")
    print(f"medinfer / naive loop: {seconds['naive loop'] / seconds['medinfer']:.2f}")


def _measure(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _drain(model: medinfer.Model, paths: list[str]) -> None:
    for _ in model.predict_many(paths):
        pass


def _parts(model: medinfer.Model, paths: list[str]) -> None:
    """Do the same work on one thread with nothing around it."""
    spec = model.spec.input
    session = model._session
    tensor = np.empty((1, spec.height, spec.width, spec.channels), np.uint8)
    for path in paths:
        medinfer.preprocess(read_image(path, spec), spec, out=tensor[0])
        session.run(None, {"image": tensor})


def _naive(path: str, spec: medinfer.ModelSpec) -> Callable[[str], None]:
    """imread, resize, run, one by one, on a session with onnxruntime's own defaults."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(image: str) -> None:
        pixels = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)
        pixels = cv2.resize(pixels, (spec.input.width, spec.input.height))
        session.run(None, {"image": pixels[None]})

    return run


if __name__ == "__main__":
    main()
