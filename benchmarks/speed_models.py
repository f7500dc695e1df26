"""The networks whose speed is measured: exported once, with random weights, which cost the same time as trained ones.

python -m benchmarks.speed_models [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.untrained import classifier
from medexport.build import build_file
from medexport.source import Source
from medexport.verify import images_of
from medinfer.pixels import preprocess
from medinfer.spec import Graph, InputSpec, ModelSpec

FOLDER = Path("build/speed")
CLASSES = ("glioma", "meningioma", "none", "pituitary")
RGB = InputSpec(height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GRAY = InputSpec(height=70, width=70, color="gray", mean=(0.5,), std=(0.5,))
# Four kinds that differ in where the time goes: wide convolutions, depthwise ones, SiLU with gates, next to nothing.
INPUTS = {"resnet18": RGB, "mobilenet_v2": RGB, "efficientnet_b0": RGB, "malaria_cnn": GRAY}


def speed_model(arch: str, folder: Path = FOLDER, *, graph: str = "pixels") -> Path:
    """Return the file of a network, exported if it is not there yet."""
    path = folder / f"{arch}.{graph}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        build_file(_source(arch), path, graph=Graph(input=graph), images=images_of(None))
    return path


def _source(arch: str) -> Source:
    spec = INPUTS[arch]
    tensors = np.stack([preprocess(image, spec) for image in images_of(None).images])
    network = classifier(arch, tensors, spec, classes=len(CLASSES))
    return Source(network, ModelSpec(name=arch, classes=CLASSES, task="multiclass", input=spec))


if __name__ == "__main__":
    for name in INPUTS:
        for kind in ("pixels", "float"):
            print(speed_model(name, Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, graph=kind))
