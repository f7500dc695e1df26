"""What is written into the file besides the graph: the contract, and a description for people."""

from __future__ import annotations

import onnx

from medinfer import __version__
from medinfer.command import DISCLAIMER
from medinfer.spec import SPEC_KEY, ModelSpec


def stamp(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Write the contract into the model and return the file's bytes: the same for the same model and contract.

    No clock, host or path goes in: two exports of one checkpoint are byte-identical.
    """
    model.producer_name = "medexport"
    model.producer_version = __version__
    model.graph.name = spec.name
    model.doc_string = _description(spec)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {SPEC_KEY: spec.dumps()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _description(spec: ModelSpec) -> str:
    size = spec.input
    return (
        f"{spec.name}: {', '.join(spec.classes)}. Input: uint8 [batch, {size.height}, {size.width}, {size.channels}] "
        f"{size.color}, resized by OpenCV ({size.interpolation}); mean, std and softmax are inside. "
        f"Output: probabilities, logits. {DISCLAIMER}"
    )
