"""Every network that recipes name, exported: how clean the graph is, and how far its answers lie from torch's.

    python -m benchmarks.export_matrix [DATA/brain-tumor-mri] [--only resnet18,vit_b_16] [--write docs/export-matrix.md]

Without a folder the images are drawn. An export that disagrees with torch ends it with an error. The weights are random
(`untrained.py`). A network that is done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.untrained import SPREAD, classifier
from medexport.build import build_file
from medexport.graph import Deployable
from medexport.reference import images_of
from medexport.source import Source
from medexport.verify import BATCHES
from medinfer.agreement import compare
from medinfer.imaging import ImageSource, preprocess, read_image
from medinfer.model import Model, load
from medinfer.spec import InputSpec, ModelSpec

NETWORKS = [
    "resnet18",
    "resnet50",
    "vgg16",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b3",
    "efficientnet_v2_s",
    "densenet121",
    "convnext_tiny",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "vit_b_16",
    "swin_t",
    "small_cnn",
    "malaria_cnn",
    "ct_mri_cnn",
    "efficientnet_lite0",
]
REMARKS = """
DenseNet keeps 62 BatchNorms: they follow a concatenation, and no convolution before them could take them up. vit_b_16
asks for the size of the batch once, to repeat its class token; nothing else computes a shape.

[precision.md](precision.md) has trained networks in fp16 and int8.
"""
SIDE, IMAGES = 224, 32
CLASSES = ("a", "b", "c", "d")
INPUT = InputSpec(height=SIDE, width=SIDE, interpolation="area", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SPEC = ModelSpec(name="matrix", classes=CLASSES, task="multiclass", input=INPUT)


def main() -> None:
    """Export what is not exported yet, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", help="Names, with commas; by default all.")
    parser.add_argument("--out", type=Path, default=Path("build/export-matrix"))
    parser.add_argument("--write", type=Path, help="A Markdown file for the table.")
    options = parser.parse_args()
    options.out = options.out / (options.data.name if options.data else "drawn")
    options.out.mkdir(parents=True, exist_ok=True)
    images = images_of(options.data, IMAGES).images
    rows = []
    for arch in NETWORKS if options.only is None else options.only.split(","):
        file = options.out / f"{arch}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(arch, images, options.out, options.data)), encoding="utf-8")
        rows.append(json.loads(file.read_text(encoding="utf-8")))
        print(line(rows[-1]), flush=True)
    if options.write:
        options.write.write_text(page(rows), encoding="utf-8")


def measure(arch: str, images: Sequence[ImageSource], out: Path, data: Path | None) -> dict:
    """Return one network's figures."""
    tensors = np.stack([preprocess(read_image(image, INPUT), INPUT) for image in images])
    source = Source(classifier(arch, tensors, INPUT, classes=len(CLASSES)), SPEC)
    before = nodes_before(source)
    path = out / f"{arch}.onnx"
    start = time.monotonic()
    build_file(source, path, images=images_of(data, IMAGES), overwrite=True)
    seconds = time.monotonic() - start
    model, wanted = load(path, "cpu"), source.logits(tensors)
    batches = {}
    for size in BATCHES:
        chunks = [model.predict_batch(images[i : i + size]) for i in range(0, len(images), size)]
        seen = [one for chunk in chunks for one in chunk]
        logits = np.array([list(one.logits.values()) for one in seen], np.float32)
        found = compare(wanted, logits, np.stack([one.scores for one in seen]))
        batches[size] = {"difference": found.max_difference, "flips": len(found.flips), "ties": len(found.ties)}
    measured = {
        "arch": arch,
        "before": before,
        "after": count_nodes(model),
        "tolerance": found.tolerance,
        "batches": batches,
        "megabytes": path.stat().st_size / 1e6,
        "seconds": seconds,
    }
    path.unlink()
    return measured


def nodes_before(source: Source) -> int:
    """Count the nodes that torch's exporter writes, left to itself and with a permutation in front."""

    class Plain(Deployable):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.classifier(image.permute(0, 3, 1, 2))
            return torch.softmax(logits, dim=1), logits

    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        Plain(source.classifier, SPEC).eval(),
        (example,),
        dynamo=True,
        opset_version=18,
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    return len(program.model_proto.graph.node)


def count_nodes(model: Model) -> int:
    """Count the nodes of the file."""
    return len(onnx.load(model.path).graph.node)


def line(row: dict) -> str:
    """Return one row for the terminal."""
    worst = max(batch["difference"] for batch in row["batches"].values())
    flips = sum(batch["flips"] for batch in row["batches"].values())
    return (
        f"{row['arch']:20} nodes {row['before']:4} -> {row['after']:4}  max |dlogit| {worst:.1e} "
        f"(allowed {row['tolerance']:.1e})  {flips} flips  {row['megabytes']:.1f} MB  {row['seconds']:.0f} s"
    )


def page(rows: list[dict]) -> str:
    """Return the table as a Markdown page."""
    sizes = "".join(f" batch {size} |" for size in BATCHES)
    text = f"""# Exports, network by network

Written by `python -m benchmarks.export_matrix DATA/brain-tumor-mri --write docs/export-matrix.md`: {SIDE} px,
{len(CLASSES)} classes, {IMAGES} real images, two shared CPU cores. Nodes: what torch's exporter writes left to itself,
and what is in our file. In each batch: the largest difference of a logit from torch's in fp32, and label flips. The
logits spread over {SPREAD:.0f}, so {SPREAD * 1e-4:.0e} is allowed. Seconds: the whole export, with the verdict on
{IMAGES} images and the patterns. The weights are random, with BatchNorm statistics of the images and the patterns.

| network | nodes |{sizes} MB | seconds |
|---|---|{"---|" * len(BATCHES)}---|---|
"""
    return text + "".join(_markdown(row) for row in rows) + REMARKS


def _markdown(row: dict) -> str:
    cells = "".join(f" {batch['difference']:.1e}, {batch['flips']} |" for batch in row["batches"].values())
    nodes = f"{row['before']} -> {row['after']}"
    return f"| {row['arch']} | {nodes} |{cells} {row['megabytes']:.1f} | {row['seconds']:.0f} |\n"


if __name__ == "__main__":
    main()
