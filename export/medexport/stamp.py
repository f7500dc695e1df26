"""What is written into the file besides the graph: the contract, and what other tools and people read."""

from __future__ import annotations

import onnx

from medexport.metadata import denote, describe, keys
from medinfer import __version__
from medinfer.spec import SPEC_KEY, ModelSpec


def stamp(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Write the contract into the model and return the file's bytes: the same for the same model and contract.

    No clock, host or path goes in: two exports of one checkpoint are byte-identical.
    """
    model.producer_name = "medexport"
    model.producer_version = __version__
    model.graph.name = spec.name
    model.doc_string = describe(spec)
    denote(model, spec)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted({**keys(spec), SPEC_KEY: spec.dumps()}.items())))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
