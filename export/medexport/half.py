"""fp32 -> fp16 by onnxruntime's converter, with as few of the first layers left in fp32 as the logits allow."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from medexport.layers import around, layers, leading_to
from medexport.reference import ReferenceImages, fixed_patterns
from medexport.source import Source
from medexport.trial import Feed, logits_of
from medinfer.agreement import TOLERANCES
from medinfer.errors import ImageError
from medinfer.imaging import preprocess, read_image
from medinfer.model import Model, load
from medinfer.spec import InputSpec, ModelSpec

# How many of the first layers stay in fp32, tried in turn; at most a quarter of the network.
FIRST_IN_FP32 = (3, 6, 12, 24)
# How many images they are chosen on, beside the patterns, and which part of the tolerance may be spent there: the
# verdict is given on more.
IMAGES, SHARE = 32, 0.5


def nearest_fp16(model: onnx.ModelProto, spec: ModelSpec, source: Source, images: ReferenceImages) -> onnx.ModelProto:
    """Return the model in fp16 with the fewest first layers in fp32 that comes well within the tolerance.

    If none does, the nearest; the verdict follows.

    Args:
        model: In fp32; it stays as it is.
        spec: Its contract.
        source: The checkpoint.
        images: What the verdict will be given on.
    """
    tensors = _tensors(spec.input, images)
    expected, feed = source.logits(tensors), Feed(spec)
    most = len(layers(model)) // 4
    found = []
    for first in sorted({min(first, most) for first in FIRST_IN_FP32}):
        half = to_fp16(model, first)
        differences = np.abs(logits_of(as_rounded(half), feed, tensors) - expected)
        distance = float(np.nan_to_num(differences, nan=np.inf).max())
        if distance <= SHARE * TOLERANCES["fp16"][0]:
            return half
        found.append((distance, first, half))
    return min(found, key=lambda one: one[:2])[2]


def _tensors(spec: InputSpec, images: ReferenceImages) -> npt.NDArray[np.uint8]:
    """Return the patterns and some of the images as the contract prepares them, uint8 (n, H, W, C)."""
    step = math.ceil(len(images.images) / IMAGES)
    tensors = []
    for image in (*fixed_patterns(spec).images, *images.fitting(spec).images[::step]):
        with contextlib.suppress(ImageError):  # the verdict counts what cannot be read
            tensors.append(preprocess(read_image(image, spec), spec))
    return np.stack(tensors)


def to_fp16(model: onnx.ModelProto, first: int) -> onnx.ModelProto:
    """Return a model whose network computes in fp16; inputs, outputs and what is around the network stay as they are.

    Normalisation stays, for it subtracts numbers that may be near; so do the last layer, softmax and `ood_score`, which
    cost nothing, and whose sums of squares could overflow. So do the first layers: measured, what is rounded there
    moves the logits most, and they have few weights.

    Args:
        model: In fp32; it stays as it is.
        first: How many layers with weights stay in fp32 at the beginning.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    weighted = layers(model)
    kept = {node.name for node in leading_to(weighted[first].input[0], model.graph)}
    blocked = around(model) | kept | {weighted[-1].name}
    # ONNX's own lists of operators that have no fp16 are of old opsets.
    converted: onnx.ModelProto = convert_float_to_float16(
        copied, keep_io_types=True, op_block_list=[], node_block_list=sorted(blocked)
    )
    _skip_roundings(converted.graph)
    ONNXModel(converted).topological_sort()
    del converted.graph.value_info[:]
    return converted


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


@contextlib.contextmanager
def rounding(model: Model) -> Iterator[Model]:
    """Yield a model that answers on the CPU as an fp16 file does on a processor that has fp16: see `as_rounded`."""
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        path = Path(folder) / model.path.name
        path.write_bytes(as_rounded(onnx.load(model.path)).SerializeToString())
        with load(path, "cpu") as computed:
            yield computed


def as_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in fp32 that rounds every value to fp16 where one in fp16 does on a processor that has it.

    onnxruntime's CPU provider computes most of fp16 in fp32, and leaves out the roundings between: what it says of an
    fp16 file knows nothing of values beyond 65504 or of sums that cancel. Products are summed up in fp32, as GPUs do.

    Args:
        model: In fp16; it stays as it is.
    """
    rounded = onnx.shape_inference.infer_shapes(model)
    graph = rounded.graph
    in_half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in in_half:
                exact, levels = f"{name}/exact", f"{name}/fp16"
                node.output[position] = exact
                if node.op_type == "Cast":
                    node.attribute[0].i = TensorProto.FLOAT
                nodes += [
                    onnx.helper.make_node("Cast", [exact], [levels], f"{name}/down", to=TensorProto.FLOAT16),
                    onnx.helper.make_node("Cast", [levels], [name], f"{name}/up", to=TensorProto.FLOAT),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return rounded
