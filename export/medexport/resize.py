"""The resize inside the graph, for hosts that can only decode: the very numbers that OpenCV's INTER_LINEAR gives.

OpenCV computes it in fixed point, with 11 bits for the weight of each neighbour, and so do these nodes: a `Resize` of
ONNX works in floating point and differs by a grey level in some pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, parser

from medinfer.errors import UsageError
from medinfer.spec import InputSpec, ModelSpec

# How the weights of rows and of columns are shaped, and spread, beside (1, rows, columns, 3) or (1, rows, columns).
SHAPES = {
    ("x", 3): lambda size: (np.array([size, 1]), np.array([size, 3])),
    ("y", 3): lambda size: (np.array([size, 1, 1]), np.array([size, 1, 1])),
    ("x", 1): lambda size: (np.array([size]), np.array([size])),
    ("y", 1): lambda size: (np.array([size, 1]), np.array([size, 1])),
}
# What stands before the graph is named apart from what the exporter names.
PREFIX = "resize/"
# For columns (x) or rows (y): which two neighbours each pixel has, and their weights times 2048 (OpenCV 5,
# modules/imgproc/src/resize.cpp). Past the first and last column the weight is the border's alone; past the first and
# last row it is shared out between the border and itself, which rounds differently.
NEIGHBOURS = """
    {s}_count = Shape <start: int = {axis}, end: int = {end}> (image)
    {s}_last = Sub({s}_count, one)
    {s}_double = Cast <to: int = 11> ({s}_count)
    {s}_inverse = Div({s}_side, {s}_double)
    {s}_scale = Div(double_one, {s}_inverse)
    {s}_scaled = Mul({s}_centres, {s}_scale)
    {s}_moved = Sub({s}_scaled, double_half)
    {s}_place = Cast <to: int = 1> ({s}_moved)
    {s}_floor = Floor({s}_place)
    {s}_index = Cast <to: int = 7> ({s}_floor)
    {s}_rest = Sub({s}_place, {s}_floor)
    {border}
    {s}_scaled_weight = Mul({s}_weight, float_2048)
    {s}_rounded = Round({s}_scaled_weight)
    {s}_after = Cast <to: int = 6> ({s}_rounded)
    {s}_other = Sub(float_one, {s}_weight)
    {s}_scaled_other = Mul({s}_other, float_2048)
    {s}_rounded_other = Round({s}_scaled_other)
    {s}_before = Cast <to: int = 6> ({s}_rounded_other)
    {s}_from_zero = Max({s}_index, zero)
    {s}_first = Min({s}_from_zero, {s}_last)
    {s}_following = Add({s}_index, one)
    {s}_following_from_zero = Max({s}_following, zero)
    {s}_second = Min({s}_following_from_zero, {s}_last)
    {s}_column_before = Reshape({s}_before, {s}_shape)
    {s}_column_after = Reshape({s}_after, {s}_shape)
    {s}_weight_before = Expand({s}_column_before, {s}_spread)
    {s}_weight_after = Expand({s}_column_after, {s}_spread)
"""
BORDER = {
    "x": """
    x_low = Less(x_index, zero)
    x_high = GreaterOrEqual(x_index, x_last)
    x_edge = Or(x_low, x_high)
    x_weight = Where(x_edge, float_zero, x_rest)""",
    "y": """
    y_weight = Identity(y_rest)""",
}
# One of the two rows of neighbours, its columns mixed: 20 bits, of which 16 are kept.
ROW = """
    {r}_bytes = Gather <axis: int = 1> (picture, y_{r})
    {r}_left_bytes = Gather <axis: int = 2> ({r}_bytes, x_first)
    {r}_left = Cast <to: int = 6> ({r}_left_bytes)
    {r}_left_part = Mul({r}_left, x_weight_before)
    {r}_right_bytes = Gather <axis: int = 2> ({r}_bytes, x_second)
    {r}_right = Cast <to: int = 6> ({r}_right_bytes)
    {r}_right_part = Mul({r}_right, x_weight_after)
    {r}_sum = Add({r}_left_part, {r}_right_part)
    {r}_kept = Div({r}_sum, int_16)
    {r}_weighted = Mul({r}_kept, y_weight_{weight})
    {r}_part = Div({r}_weighted, int_65536)
"""
# onnxruntime broadcasts along a last axis of one element forty times slower: a gray picture is computed without it.
START = {1: "picture = Squeeze(image, last_axis)", 3: "picture = Identity(image)"}
FINISH = {1: "pixels = Unsqueeze(done, last_axis)", 3: "pixels = Identity(done)"}
END = """
    both = Add(first_part, second_part)
    raised = Add(both, int_2)
    mixed = Div(raised, int_4)
    bounded = Min(mixed, int_255)
    done = Cast <to: int = 2> (bounded)
"""


def check_resize(spec: InputSpec) -> None:
    """Refuse a contract whose resize these nodes cannot do; raises UsageError."""
    if spec.fit != "stretch" or spec.interpolation != "linear":
        kind = spec.interpolation if spec.fit == "stretch" else type(spec.fit).__name__.removesuffix("Fit").lower()
        raise UsageError(
            f"--input image: the graph can stretch by linear interpolation; this contract says {kind}",
            hint="Export the default file, or train with input.interpolation = linear.",
        )


def with_resize(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a model of `uint8[1, height, width, channels]`, of any size, for one that takes the contract's size."""
    check_resize(spec.input)
    before = _resize(spec.input, model)
    before = compose.add_prefix(before, PREFIX, rename_inputs=False, rename_outputs=False)
    model.graph.input[0].name = "pixels"
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    merged = compose.merge_models(before, model, io_map=[("pixels", "pixels")])
    merged.producer_name = model.producer_name
    merged.producer_version = model.producer_version
    merged.graph.name = model.graph.name
    return merged


def _resize(spec: InputSpec, model: onnx.ModelProto) -> onnx.ModelProto:
    axes = [("y", 1, spec.height), ("x", 2, spec.width)]
    nodes = START[spec.channels]
    nodes += "".join(NEIGHBOURS.format(s=s, axis=axis, end=axis + 1, border=BORDER[s]) for s, axis, _ in axes)
    nodes += ROW.format(r="first", weight="before") + ROW.format(r="second", weight="after")
    nodes += END + FINISH[spec.channels]
    header = f"image_to_pixels (uint8[1, height, width, {spec.channels}] image)"
    header += f" => (uint8[1, {spec.height}, {spec.width}, {spec.channels}] pixels)"
    graph = parser.parse_graph(f"{header} {{ {nodes} }}")
    constants: dict[str, Any] = {"zero": np.int64(0), "one": np.int64(1)}
    constants |= {"double_one": np.float64(1), "double_half": np.float64(0.5)}
    constants |= {"float_zero": np.float32(0), "float_one": np.float32(1), "float_2048": np.float32(2048)}
    constants |= {f"int_{n}": np.int32(n) for n in (2, 4, 16, 255, 65536)}
    for side, _, size in axes:
        constants[f"{side}_side"] = np.float64(size)
        constants[f"{side}_centres"] = np.arange(size) + 0.5
        # Spread out, for onnxruntime multiplies by one number a pixel ten times slower than by one a channel.
        constants[f"{side}_shape"], constants[f"{side}_spread"] = SHAPES[side, spec.channels](size)
    constants |= {"last_axis": np.array([3])} if spec.channels == 1 else {}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    opsets = [helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
