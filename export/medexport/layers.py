"""Which nodes of a graph are the network, and which of them have its weights."""

from __future__ import annotations

import onnx

from medinfer.errors import UsageError


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
