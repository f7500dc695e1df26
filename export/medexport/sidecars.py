"""Files beside the model that other servers and libraries ask for, all told from the one contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medinfer.errors import UsageError
from medinfer.files import atomic_file
from medinfer.model import INPUTS
from medinfer.spec import CropFit, Graph, ModelSpec, PadFit

TRITON_MAX_BATCH = 32
# Pillow's numbers for the filters that come nearest to OpenCV's.
PILLOW_FILTERS = {"linear": 2, "cubic": 3, "area": 4}
RESCALE = 1 / 255


@dataclass(frozen=True)
class Sidecars:
    """What is wanted beside a model."""

    labels: bool = False
    triton: Path | None = None
    """The repository, which may hold other models."""
    hf: Path | None = None

    def paths(self, model: Path) -> list[Path]:
        """Return what would be written, a file for each, to be refused where it exists."""
        found = [labels_path(model)] if self.labels else []
        found += [self.triton / model.stem / "config.pbtxt"] if self.triton else []
        return found + ([self.hf / "config.json"] if self.hf else [])


def labels_path(model: Path) -> Path:
    """Return NAME.labels.txt beside NAME.onnx."""
    return model.with_suffix(".labels.txt")


def write_labels(spec: ModelSpec, path: Path) -> None:
    """Write the class names in output order, a line each."""
    _write(path, "".join(f"{name}\n" for name in spec.classes))


def write_triton(spec: ModelSpec, model: Path, repository: Path) -> None:
    """Add a model to a repository of NVIDIA's Triton server.

    Layout and fields: Triton's model_repository.md and model_configuration.md. Clients send what the graph takes, and
    get names of classes where they ask for a classification.
    """
    folder = repository / model.stem
    (folder / "1").mkdir(parents=True, exist_ok=True)
    _copy(model, folder / "1" / "model.onnx")
    write_labels(spec, folder / "labels.txt")
    _write(folder / "config.pbtxt", _triton_config(spec, model.stem))


def check_hf(spec: ModelSpec) -> None:
    """Raise UsageError where the preprocessing cannot be said in Hugging Face's words."""
    if isinstance(spec.input.fit, PadFit) or spec.input.color == "gray":
        what = "pad" if isinstance(spec.input.fit, PadFit) else "make gray pictures"
        raise UsageError(f"--hf: Hugging Face's image processors cannot {what}", hint="Leave --hf out.")


def write_hf(spec: ModelSpec, model: Path, folder: Path) -> None:
    """Write what Hugging Face's optimum and transformers.js read, around a file that takes float images.

    Their image processors resize by Pillow, so pixels are close to the contract's but not the same.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    _copy(model, folder / "onnx" / "model.onnx")
    _write(folder / "config.json", _json(_hf_config(spec)))
    _write(folder / "preprocessor_config.json", _json(_hf_preprocessor(spec)))


def _triton_config(spec: ModelSpec, name: str) -> str:
    graph, size = spec.graph or Graph(), spec.input
    pixels = graph.input == "pixels"
    dims = [size.height, size.width, size.channels] if pixels else [size.channels, size.height, size.width]
    batching = "dynamic_batching { }\n" if graph.batch is None else ""
    return f"""name: {json.dumps(name)}
platform: "onnxruntime_onnx"
max_batch_size: {graph.batch or TRITON_MAX_BATCH}
input [
  {{ name: "{INPUTS[graph.input]}", data_type: {"TYPE_UINT8" if pixels else "TYPE_FP32"}, dims: {dims} }}
]
output [
  {{ name: "probabilities", data_type: TYPE_FP32, dims: [{len(spec.classes)}], label_filename: "labels.txt" }},
  {{ name: "logits", data_type: TYPE_FP32, dims: [{len(spec.classes)}], label_filename: "labels.txt" }}
]
{batching}"""


def _hf_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "model_type": "medonnx",
        "problem_type": "single_label_classification",
        "num_labels": len(spec.classes),
        "id2label": {str(index): name for index, name in enumerate(spec.classes)},
        "label2id": {name: index for index, name in enumerate(spec.classes)},
    }


def _hf_preprocessor(spec: ModelSpec) -> dict[str, Any]:
    """Mean and std are in the graph, so only resizing and 1/255 are left to the host."""
    size = {"height": spec.input.height, "width": spec.input.width}
    crop = spec.input.fit.crop if isinstance(spec.input.fit, CropFit) else None
    return {
        "image_processor_type": "ViTImageProcessor" if crop is None else "ConvNextImageProcessor",
        "do_resize": True,
        "size": size if crop is None else {"shortest_edge": crop.resize},
        "resample": PILLOW_FILTERS[spec.input.interpolation],
        "do_center_crop": crop is not None,
        **({"crop_size": size} if crop else {}),
        "do_rescale": True,
        "rescale_factor": RESCALE,
        "do_normalize": False,
        "do_convert_rgb": True,
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text)


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target, binary=True) as file:
        file.write(source.read_bytes())
