"""The file that resizes within (`--input image`) and the one with `--heatmap` against the default one, on real images.

    python -m benchmarks.variants DATA

takes checkpoints of `benchmarks.reference_tasks` and `benchmarks.cardiomegaly`; a variant that a network cannot have is
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import medinfer
from benchmarks.reference_tasks import CARDIO, MRI
from medexport.build import build_file
from medexport.reference import images_of
from medexport.source import read_checkpoint
from medinfer.errors import UsageError
from medinfer.spec import Graph

RUNS = {
    "reference/malaria/original/0": "malaria/cell_images",
    "reference/brain-tumor-mri/original-random-split/0": MRI,
    "reference/busi/original/0": "busi-256",
    "cardiomegaly/lite0-ours": CARDIO,
    "reference/malaria/ours/0": "malaria/cell_images",
    "reference/brain-tumor-mri/ours/0": MRI,
}
VARIANTS = {
    "default": Graph(),
    "image": Graph(input="image", batch=1),
    "heatmap": Graph(extra_outputs=("heatmap",)),
}
IMAGES = 700


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--build", type=Path, default=Path("build"))
    options = parser.parse_args()
    for name, folder in RUNS.items():
        checkpoint = options.build / name / "ckpt.pt"
        print(compared(checkpoint, options.data / folder) if checkpoint.exists() else f"{checkpoint} is not there")


def compared(checkpoint: Path, folder: Path) -> str:
    """Return what differs between the files of a checkpoint, and what one image costs in each."""
    source = read_checkpoint(checkpoint)
    images = [str(image) for image in images_of(folder, IMAGES).images]
    rows: dict[str, list[Any]] = {}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        models = {}
        for name, graph in VARIANTS.items():
            with contextlib.suppress(UsageError):
                build_file(source, Path(place) / f"{name}.onnx", graph=graph)
                models[name] = medinfer.load(Path(place) / f"{name}.onnx", "cpu", threads=1)
        for image in images:
            for name, model in models.items():
                start = time.perf_counter()
                rows.setdefault(name, []).append(list(model.predict(image).probabilities.values()))
                times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
    default = np.array(rows["default"])
    told = [f"{checkpoint}: {len(images)} images, default {statistics.median(times['default']):.2f} ms"]
    for name in [name for name in models if name != "default"]:
        found = np.array(rows[name])
        flips = int(np.count_nonzero(default.argmax(axis=1) != found.argmax(axis=1)))
        ratio = statistics.median(b / a for a, b in zip(times["default"], times[name], strict=True))
        far = np.abs(default - found).max()
        told.append(
            f"{name} x {ratio:.2f} ({statistics.median(times[name]):.2f} ms), {flips} flips, max |dp| {far:.1e}"
        )
    return "; ".join(told)


if __name__ == "__main__":
    main()
