"""Makes the channels around depthwise convolutions alike in size, so that one scale for all of them serves each.

One channel's activations may be a hundredth of another's, and 256 levels for the larger leave three for the smaller. A
ReLU between two convolutions lets a channel be made larger before it and smaller after it, which changes no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from medexport.trial import Feed, inner_values

Array = npt.NDArray[Any]

# A channel that is nearly always nothing is not made into noise.
MOST = 8.0


def equalised(model: onnx.ModelProto, feed: Feed, tensors: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """Return a model that answers alike, with what depthwise convolutions take and give brought to one range.

    After Nagel, M. et al. (2019): Data-free quantization through weight equalization and bias correction, section 4.1,
    with two differences. Ranges are those of activations, which have one scale for all channels, while weights have
    one for each: what a depthwise convolution takes is made fully alike, which costs its weights nothing, and what it
    gives half way, on a logarithmic scale, for the weights that follow share theirs. And channels only grow, so that a
    ReLU6 stays: a channel that reached 2 then reaches 6, and is clipped beyond, where int8 would clip it.

    Args:
        model: In fp32; it stays as it is.
        feed: What it is fed.
        tensors: Images that tell each channel's range, uint8 (n, H, W, C).
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    pairs = list(_pairs(changed.graph))
    if not pairs:
        return changed
    largest = _largest(changed, [after.input[0] for _, after, _ in pairs], feed, tensors)
    weights = {tensor.name: tensor for tensor in changed.graph.initializer}
    for (before, after, ceiling), channels in zip(pairs, largest, strict=True):
        target = channels.max() if ceiling is None else ceiling
        factors = np.clip(target / np.maximum(channels, 1e-9), 1, MOST)
        if not is_depthwise(after, weights):
            factors = np.sqrt(factors)
        for name in before.input[1:]:
            _scale(weights[name], factors, axis=0)
        _scale(weights[after.input[1]], 1 / factors, axis=0 if is_depthwise(after, weights) else 1)
    return changed


def _pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto, float | None]]:
    """Yield convolutions with nothing but a ReLU between them, one of them depthwise, and the ReLU's ceiling if any."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    read = Counter(name for node in graph.node for name in node.input)
    read.update(value.name for value in graph.output)
    for after in graph.node:
        middle = made.get(after.input[0]) if after.op_type == "Conv" else None
        before = made.get(middle.input[0]) if middle and middle.op_type in ("Relu", "Clip") else None
        if not middle or not before or before.op_type != "Conv":
            continue
        scaled = {*before.input[1:], after.input[1]}
        # What is read elsewhere too would be changed there.
        if not scaled <= set(weights) or any(read[name] > 1 for name in {*scaled, before.output[0], middle.output[0]}):
            continue
        kinds = [is_depthwise(node, weights) for node in (before, after)]
        limits = [numpy_helper.to_array(weights[name]) for name in middle.input[1:] if name in weights]
        ends_at_zero = middle.op_type == "Relu" or (len(limits) == 2 and limits[0] == 0)
        if any(kinds) and (kinds[1] or _groups(after) == 1) and ends_at_zero:
            yield before, after, float(limits[1]) if limits else None


def is_depthwise(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Tell whether each channel is convolved alone: then scaling it is scaling one channel of the weights."""
    return bool(_groups(node) == weights[node.input[1]].dims[0] > 1)


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _largest(model: onnx.ModelProto, values: Sequence[str], feed: Feed, tensors: npt.NDArray[np.uint8]) -> list[Array]:
    """Return each channel's largest value over all images, float (channels,) for each of the values named."""
    largest: list[Any] = [0.0] * len(values)
    for found in inner_values(model, values, feed, tensors):
        largest = [np.maximum(so_far, value.max(axis=(0, 2, 3))) for so_far, value in zip(largest, found, strict=True)]
    return largest


def _scale(tensor: onnx.TensorProto, factors: Array, axis: int) -> None:
    values = numpy_helper.to_array(tensor)
    shape = [-1 if position == axis else 1 for position in range(values.ndim)]
    tensor.CopyFrom(numpy_helper.from_array((values * factors.reshape(shape)).astype(values.dtype), tensor.name))
