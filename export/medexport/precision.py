"""The same network in fp16 or int8: what may be asked for, and who does it."""

from __future__ import annotations

from dataclasses import replace

import onnx

from medexport.half import nearest_fp16
from medexport.quantize import quantise
from medexport.reference import ReferenceImages
from medexport.source import Source
from medexport.splits import SplitImages
from medinfer.errors import UsageError
from medinfer.graph import HEATMAP
from medinfer.spec import Graph, ModelSpec


def check_precision(graph: Graph, images: ReferenceImages | None) -> None:
    """Refuse before any work is done what cannot be had in a precision; raises UsageError."""
    if graph.precision != "int8":
        return
    if not isinstance(images, SplitImages):
        hint = "Pass the images that it was trained on, with the run's splits.csv."
        raise UsageError("int8 is calibrated on training images and judged on test images", hint=hint)
    if HEATMAP in graph.extra_outputs:
        raise UsageError("heatmaps of int8 have no tolerance to be held to", hint="Export them from the fp32 file.")


def lowered(
    model: onnx.ModelProto, spec: ModelSpec, source: Source, images: ReferenceImages
) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return a model in the precision that its contract names, and the contract with how that was done.

    Args:
        model: In fp32; it stays as it is.
        spec: Its contract; `graph.precision` is what is wanted.
        source: The checkpoint, whose logits a file is chosen by.
        images: What the verdict will be given on; for int8 those of the run's splits.
    """
    precision = (spec.graph or Graph()).precision
    if precision == "fp16":
        return nearest_fp16(model, spec, source, images), spec
    if precision == "int8":
        assert isinstance(images, SplitImages)  # `check_precision` has seen to it
        model, made = quantise(model, spec, source, images)
        return model, replace(spec, provenance=replace(spec.provenance, quantization=made))
    return model, spec
