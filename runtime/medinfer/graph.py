"""The graph in a file, and the contract that describes it: what goes in, what comes out, and whether that is so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medinfer.choices import OOD_SCORE
from medinfer.errors import ModelError
from medinfer.spec import SPEC_KEY, ModelSpec

if TYPE_CHECKING:
    import onnxruntime

MAX_SPEC_BYTES = 64 << 20
# What Hugging Face's tools call an image on [0, 1]; others take any name.
INPUTS = {"pixels": "image", "image": "image", "float": "pixel_values"}
OUTPUTS = ["probabilities", "logits"]
# A map for each class: which places its logit comes from.
HEATMAP = "heatmap"


def read_contract(session: onnxruntime.InferenceSession, path: Path) -> ModelSpec:
    """Return the contract inside a file; raises ModelError if there is none, SpecError if it is malformed."""
    text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    if text is None:
        hint = "Only files that medexport wrote say how to feed them."
        raise ModelError(f"{path}: no {SPEC_KEY} in its metadata", hint=hint)
    if len(text) > MAX_SPEC_BYTES:
        raise ModelError(f"{path}: a contract of {len(text)} bytes; at most {MAX_SPEC_BYTES} are read")
    return ModelSpec.loads(text)


def check_graph(session: onnxruntime.InferenceSession, spec: ModelSpec, path: Path) -> None:
    """Refuse a graph that is not the one its contract describes."""
    if spec.graph is None:
        raise ModelError(f"{path}: its contract says nothing of the graph")
    kind = spec.graph.input
    inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
    size = [spec.input.height, spec.input.width]
    channels = spec.input.channels
    wanted: tuple[str, list[Any]] = ("tensor(uint8)", [*size, channels])
    if kind == "float":
        wanted = ("tensor(float)", [channels, *size])
    elif kind == "image":
        sides = [side for _, shape in inputs.values() for side in shape[:2]]
        wanted = ("tensor(uint8)", [*(side if type(side) is str else "any" for side in sides), channels])
    if list(inputs.values()) != [wanted]:
        raise ModelError(f"{path}: its inputs are {inputs}, its contract says {wanted}")
    batch = session.get_inputs()[0].shape[0]
    if (batch if isinstance(batch, int) else None) != spec.graph.batch:
        raise ModelError(f"{path}: its batch size is {batch}, its contract says {spec.graph.batch or 'any'}")
    outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    absent = [name for name in spec.graph.extra_outputs if name not in outputs]
    if absent:
        raise ModelError(f"{path}: its contract promises outputs that it lacks: {', '.join(absent)}")
    shapes = {name: [len(spec.classes)] for name in OUTPUTS}
    shapes |= {OOD_SCORE: []} if OOD_SCORE in spec.graph.extra_outputs else {}
    if HEATMAP in spec.graph.extra_outputs:
        shapes[HEATMAP] = [len(spec.classes), *outputs[HEATMAP][1][2:4]]
    for name, shape in shapes.items():
        kind, found = outputs.get(name, ("missing", []))
        if kind != "tensor(float)" or not found or found[1:] != shape:
            raise ModelError(f"{path}: output {name!r} is {kind} {found}, not float {[batch, *shape]}")


def as_fed(tensors: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[Any]:
    """Return pixels, uint8 (n, H, W, C), as a graph takes them: as they are, or float32 (n, C, H, W) on [0, 1]."""
    if kind != "float":
        return tensors
    return np.ascontiguousarray(tensors.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
