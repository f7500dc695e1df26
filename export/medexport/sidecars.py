"""Files beside the model that other servers and libraries ask for, all told from the one contract.

Hugging Face's processors resize by Pillow, so their pixels are close to the contract's but not the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexport.mobile import ort_path, write_ort
from medinfer.choices import OOD_SCORE
from medinfer.errors import UsageError
from medinfer.files import atomic_file
from medinfer.graph import INPUTS
from medinfer.spec import CropFit, Graph, ModelSpec, PadFit

TRITON_MAX_BATCH = 32
# Pillow's numbers for the filters that come nearest to OpenCV's.
PILLOW_FILTERS = {"linear": 2, "cubic": 3, "area": 4}
RESCALE = 1 / 255


@dataclass(frozen=True)
class Sidecars:
    """What is wanted beside a model."""

    labels: bool = False
    ort: bool = False
    triton: Path | None = None
    """A repository of NVIDIA's Triton server, which may hold other models."""
    hf: Path | None = None
    """A folder for Hugging Face's optimum and transformers.js."""

    def paths(self, model: Path) -> list[Path]:
        """Return every file that would be written beside a model."""
        found = [labels_path(model)] * self.labels + [ort_path(model)] * self.ort
        if self.triton:
            found += [self.triton / model.stem / name for name in ("config.pbtxt", "labels.txt", "1/model.onnx")]
        if self.hf:
            found += [self.hf / name for name in ("config.json", "preprocessor_config.json", "onnx/model.onnx")]
        return found

    def check(self, spec: ModelSpec, model: Path) -> None:
        """Refuse before any work what could not be written; raises UsageError."""
        for folder in (self.triton, self.hf):
            if folder and folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder}: is a file", hint="Name a folder.")
        if self.triton and not re.fullmatch(r"[\w.-]+", model.stem):
            raise UsageError(f"--triton: {model.stem!r} is no name of a model", hint="Name the file with --output.")
        if self.hf and (isinstance(spec.input.fit, PadFit) or spec.input.color == "gray"):
            what = "pad" if isinstance(spec.input.fit, PadFit) else "make gray pictures"
            raise UsageError(f"--hf: Hugging Face's image processors cannot {what}", hint="Leave --hf out.")

    def write(self, spec: ModelSpec, draft: Path, model: Path, floats: Path) -> None:
        """Write what is wanted.

        Args:
            spec: The contract of the model.
            draft: The model's file, which will stand at `model`.
            model: What the files are called after.
            floats: The same network taking floats, if `hf` is wanted.
        """
        if self.ort:
            write_ort(draft, ort_path(model))  # first, for it may fail
        if self.labels:
            _write(labels_path(model), _lines(spec))
        if self.triton:
            # Layout and fields: Triton's model_repository.md and model_configuration.md.
            folder = self.triton / model.stem
            (folder / "1").mkdir(parents=True, exist_ok=True)
            _copy(draft, folder / "1" / "model.onnx")
            _write(folder / "labels.txt", _lines(spec))
            _write(folder / "config.pbtxt", _triton_config(spec, model.stem))
        if self.hf:
            (self.hf / "onnx").mkdir(parents=True, exist_ok=True)
            _copy(floats, self.hf / "onnx" / "model.onnx")
            _write(self.hf / "config.json", _json(_hf_config(spec)))
            _write(self.hf / "preprocessor_config.json", _json(_hf_preprocessor(spec)))


def labels_path(model: Path) -> Path:
    """Return NAME.labels.txt beside NAME.onnx."""
    return model.with_suffix(".labels.txt")


def _lines(spec: ModelSpec) -> str:
    return "".join(f"{name}\n" for name in spec.classes)


def _triton_config(spec: ModelSpec, name: str) -> str:
    """Return config.pbtxt. Where the batch is fixed it is a dimension like the others, and Triton does no batching."""
    graph, size = spec.graph or Graph(), spec.input
    pixels = graph.input != "float"
    sides = [-1, -1] if graph.input == "image" else [size.height, size.width]
    fixed = [] if graph.batch is None else [graph.batch]
    dims = fixed + ([*sides, size.channels] if pixels else [size.channels, *sides])
    answers = [*fixed, len(spec.classes)]
    # Triton wants a dimension beside that of the batch; the file has none.
    score = "dims: [1], reshape: { shape: [] }" if not fixed else f"dims: {fixed}"
    more = f',\n  {{ name: "{OOD_SCORE}", data_type: TYPE_FP32, {score} }}' if OOD_SCORE in graph.extra_outputs else ""
    batching = "" if fixed else "dynamic_batching { }\n"
    return f"""name: {json.dumps(name)}
platform: "onnxruntime_onnx"
max_batch_size: {0 if fixed else TRITON_MAX_BATCH}
input [
  {{ name: "{INPUTS[graph.input]}", data_type: {"TYPE_UINT8" if pixels else "TYPE_FP32"}, dims: {dims} }}
]
output [
  {{ name: "probabilities", data_type: TYPE_FP32, dims: {answers}, label_filename: "labels.txt" }},
  {{ name: "logits", data_type: TYPE_FP32, dims: {answers}, label_filename: "labels.txt" }}{more}
]
{batching}"""


def _hf_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        # Readers load only what they know the name of; of a ResNet they read nothing but the labels.
        "model_type": "resnet",
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
        "image_processor_type": "ViTImageProcessor" if crop is None else "CLIPImageProcessor",
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
