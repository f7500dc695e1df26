"""The file that resizes within (`--input image`) against the default one, on real images of the reference tasks.

    python -m benchmarks.image_variant DATA

takes the checkpoints of `benchmarks.reference_tasks` and `benchmarks.cardiomegaly` whose contracts resize linearly.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import medinfer
from benchmarks.reference_tasks import CARDIO, MRI
from medexport.build import build_file
from medexport.reference import images_of
from medexport.source import read_checkpoint
from medinfer.spec import Graph

RUNS = {
    "reference/malaria/original/0": "malaria/cell_images",
    "reference/brain-tumor-mri/original-random-split/0": MRI,
    "reference/busi/original/0": "busi-256",
    "cardiomegaly/lite0-ours": CARDIO,
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
    """Return what differs between the two files of a checkpoint, and what one image costs in each."""
    source = read_checkpoint(checkpoint)
    images = [str(image) for image in images_of(folder, IMAGES).images]
    with tempfile.TemporaryDirectory() as place:
        files = {"default": Graph(), "image": Graph(input="image", batch=1)}
        models = {}
        for name, graph in files.items():
            build_file(source, Path(place) / f"{name}.onnx", graph=graph)
            models[name] = medinfer.load(Path(place) / f"{name}.onnx", "cpu", threads=1)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in models}
        times: dict[str, list[float]] = {name: [] for name in models}
        for image in images:
            for name, model in models.items():
                start = time.perf_counter()
                rows[name].append(np.array(list(model.predict(image).probabilities.values())))
                times[name].append(1000 * (time.perf_counter() - start))
    default, whole = np.stack(rows["default"]), np.stack(rows["image"])
    flips = int(np.count_nonzero(default.argmax(axis=1) != whole.argmax(axis=1)))
    costs = ", ".join(f"{name} {statistics.median(values):.1f} ms" for name, values in times.items())
    return f"{checkpoint}: {len(images)} images, {flips} flips, max |dp| {np.abs(default - whole).max():.1e}; {costs}"


if __name__ == "__main__":
    main()
