"""The same trained network in fp32, fp16 and int8: labels kept, AUC lost, how much faster, how much smaller.

    python -m benchmarks.precision_study DATA [--write docs/precision.md]

takes checkpoints of `benchmarks.reference_tasks`, their splits.csv beside them. int8 is exported as `medexport onnx
--precision int8` does, which refuses what does not pay; folders are then classified in turns, file to answer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import medinfer
from benchmarks.reference_tasks import BUSI, MRI
from medexport.build import build_file
from medexport.source import Source, read_checkpoint
from medexport.splits import SplitImages, images_of_splits
from medexport.verify import as_kept
from medinfer.command import tell
from medinfer.errors import MedonnxError
from medinfer.model import Model
from medinfer.spec import Graph

RUNS = {
    "resnet18, brain MRI": ("brain-tumor-mri/resnet18", MRI),
    "efficientnet_lite0, brain MRI": ("brain-tumor-mri/ours/0", MRI),
    "mobilenet_v2, breast ultrasound": ("busi/original/0", BUSI),
    "mobilenet_v2 by our recipe, breast ultrasound": ("busi/ours-mobilenet_v2-from-scratch/0", BUSI),
    "efficientnet_b0, brain MRI": ("brain-tumor-mri/original-random-split/0", MRI),
}
PRECISIONS = ("fp16", "int8")
# Of the folder: which rounds, interleaved, and how many images at most.
ROUNDS, IMAGES = 5, 200
HEADER = """# fp16 and int8, network by network

Written by `python -m benchmarks.precision_study DATA --write docs/precision.md`, on trained networks and the test
images of their runs, two shared CPU cores. Labels kept and AUC are the verdict's. Images a second are of a folder, file
to answer, two images at once, medians of interleaved rounds. fp16 is for GPUs and phones; its difference is the larger
of the file's on this CPU, which computes it in fp32, and of the same with every value rounded to fp16, as a GPU rounds
it. int8 that loses too much, or is no faster here, is refused with exit code 9: of 71 images not one label may change.

| network | precision | verdict | images/s | times fp32 | MB |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One file, or why there is none."""

    network: str
    precision: str
    verdict: str
    rate: float | None = None
    ratio: float | None = None
    megabytes: float | None = None

    def as_markdown(self) -> str:
        """Return one line of the table."""
        rate, ratio, size = (
            "-" if value is None else f"{value:.{digits}f}"
            for value, digits in ((self.rate, 1), (self.ratio, 2), (self.megabytes, 1))
        )
        verdict = self.verdict.replace("|", "\\|")
        return f"| {self.network} | {self.precision} | {verdict} | {rate} | {ratio} | {size} |\n"


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--build", type=Path, default=Path("build/reference"))
    parser.add_argument("--only", help="What the network's name begins with.", default="")
    parser.add_argument("--precisions", help="fp16, int8 or, with a comma, both.", default=",".join(PRECISIONS))
    parser.add_argument("--write", type=Path, help="A Markdown file for the table.")
    options = parser.parse_args()
    text = HEADER
    for name, (run, folder) in RUNS.items():
        if not name.startswith(options.only):
            continue
        for row in rows_of(name, options.build / run / "ckpt.pt", options.data / folder, options.precisions.split(",")):
            print(row.as_markdown(), end="", flush=True)
            text += row.as_markdown()
    if options.write:
        options.write.write_text(text, encoding="utf-8")


def rows_of(network: str, checkpoint: Path, data: Path, precisions: Sequence[str]) -> list[Row]:
    """Return what becomes of a checkpoint."""
    source = read_checkpoint(checkpoint)
    images = images_of_splits(checkpoint.with_name("splits.csv"), data, source.spec, tell)
    with tempfile.TemporaryDirectory() as place:
        plain = built(source, images, "fp32", Path(place))
        return [row_of(network, source, images, precision, Path(place), plain) for precision in precisions]


def row_of(network: str, source: Source, images: SplitImages, precision: str, place: Path, plain: Path) -> Row:
    """Return one precision's figures, beside those of the fp32 file."""
    try:
        path = built(source, images, precision, place)
    except MedonnxError as error:
        return Row(network, precision, f"refused, exit code {error.exit_code}: {error.message}")
    with medinfer.load(plain, "cpu") as first, medinfer.load(path, "cpu") as second:
        agreement = second.spec.agreement
        assert agreement is not None
        found = agreement.differences
        verdict = f"{found.label_flips} flips of {found.count}, max dlogit {found.max_logit:.1e}"
        if precision == "int8":
            verdict = as_kept(agreement)
        seconds = timed([first, second], [str(image) for image in images.images[:IMAGES]])
    count = min(IMAGES, len(images.images))
    ratio = statistics.median(before / after for before, after in zip(*seconds, strict=True))
    return Row(network, precision, verdict, count / statistics.median(seconds[1]), ratio, path.stat().st_size / 1e6)


def built(source: Source, images: SplitImages, precision: str, place: Path) -> Path:
    """Export in one precision; raises as `build_file`."""
    path = place / f"{precision}.onnx"
    build_file(source, path, graph=Graph.from_json({"precision": precision}), images=images)
    return path


def timed(models: list[Model], images: list[str]) -> list[list[float]]:
    """Return for each model the seconds that each round took, after one that does not count."""
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(ROUNDS + 1):
        for model, own in zip(models, seconds, strict=True):
            start = time.perf_counter()
            assert all(seen.error is None for seen in model.predict_many(images))
            if turn:
                own.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
