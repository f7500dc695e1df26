"""The same network in fp16 or int8: what is rounded, and what stays in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx
from onnx import TensorProto

from medexport.reference import ReferenceImages
from medexport.source import Source
from medexport.splits import SplitImages
from medinfer.errors import UsageError
from medinfer.graph import HEATMAP
from medinfer.spec import Graph, ModelSpec

# Layers that an fp16 file computes in fp32, beside the last; of a small network a quarter.
FIRST_IN_FP32 = 3


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
        source: The checkpoint, which an int8 file is chosen by.
        images: For int8 those of the run's splits.
    """
    precision = (spec.graph or Graph()).precision
    if precision == "fp16":
        return to_fp16(model), spec
    if precision == "int8":
        from medexport.quantize import quantise

        assert isinstance(images, SplitImages)  # `check_precision` has seen to it
        model, made = quantise(model, spec, source, images)
        return model, replace(spec, provenance=replace(spec.provenance, quantization=made))
    return model, spec


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose network computes in fp16; inputs, outputs and what is around the network stay as they are.

    Normalisation stays, for it subtracts numbers that may be near; so do the last layer, softmax and `ood_score`, which
    cost nothing, and whose sums of squares could overflow. The first layers stay too: measured, what is rounded there
    moves the logits most (by half to four fifths of the largest difference), and they have few weights.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    weighted = layers(model)
    kept = min(FIRST_IN_FP32, len(weighted) // 4)
    first = leading_to(weighted[kept].input[0], model.graph)
    blocked = around(model) | {node.name for node in first} | {weighted[-1].name}
    # ONNX's own lists of operators that have no fp16 are of old opsets.
    converted: onnx.ModelProto = convert_float_to_float16(
        copied, keep_io_types=True, op_block_list=[], node_block_list=sorted(blocked)
    )
    _skip_roundings(converted.graph)
    ONNXModel(converted).topological_sort()
    del converted.graph.value_info[:]
    return converted


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes with weights that lead to the logits, in order; raises UsageError if there are none."""
    tensors = {tensor.name for tensor in model.graph.initializer}
    found = [
        node
        for node in leading_to("logits", model.graph)
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in tensors
    ]
    if not found:
        raise UsageError("the network has no layer that could be computed in another precision")
    return found


def around(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes outside the network: before its first layer, or not leading to the logits."""
    before = {node.name for node in leading_to(layers(model)[0].input[0], model.graph)}
    network = {node.name for node in leading_to("logits", model.graph)} - before
    return {node.name for node in model.graph.node} - network


def leading_to(value: str, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that a value depends on, in the graph's order."""
    wanted, found = {value}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _skip_roundings(graph: onnx.GraphProto) -> None:
    """Take out casts that the converter puts in twice, and those to fp16 and back between two nodes in fp32."""
    made: set[str] = set()
    for node in list(graph.node):
        if node.output[0] in made:
            graph.node.remove(node)
        made.add(node.output[0])
    outputs = {value.name for value in graph.output}
    for down, up in list(_round_trips(graph)):
        kept, dropped = (up.output[0], down.input[0]) if up.output[0] in outputs else (down.input[0], up.output[0])
        graph.node.remove(up)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [kept if name == dropped else name for name in names]
    used = {name for node in graph.node for name in node.input} | outputs
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)


def _round_trips(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    casts = [node for node in graph.node if node.op_type == "Cast"]
    down = {node.output[0]: node for node in casts if node.attribute[0].i == TensorProto.FLOAT16}
    return ((down[node.input[0]], node) for node in casts if node.input[0] in down and node not in down.values())
