"""fp32 -> int8 by onnxruntime's static quantisation: channels equalised, biases corrected, the best of three ranges.

QDQ with uint8 activations and int8 weights, symmetric for each channel: what processors with VNNI multiply fastest.
Weights stay within 64: processors without VNNI add two products in 16 bits, and above that would answer otherwise, with
nothing said. One scale for a whole tensor of weights is no faster, and loses depthwise networks altogether.

The last layer stays in float, for int8 logits could not leave the range seen; so does the first, which on three
channels is no faster in int8 and moves the logits most. Leaving more in float was tried, by how far each layer's
rounding moves the logits: each adds its share, none most of it. So were weights trained on after rounding, towards the
checkpoint's answers: ten minutes took a seventh off the mean difference of a mobilenet_v2.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from medexport.equalise import equalised
from medexport.precision import around, layers
from medexport.source import Source, sha256
from medexport.splits import SplitImages, tensors_of
from medexport.trial import Feed, inner_values, logits_of
from medinfer.errors import ModelError, UsageError
from medinfer.spec import ModelSpec, Quantization

Array = npt.NDArray[Any]
Calibrator = Literal["minmax", "percentile", "entropy"]

# What onnxruntime has integer kernels for, so that activations stay integers from one layer to the next.
QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Sigmoid", "Relu", "Clip", "Concat", "AveragePool")
PERCENTILE = 99.99
# Of the layers: what stays in float.
ENDS = (0, -1)


def quantise(
    model: onnx.ModelProto, spec: ModelSpec, source: Source, images: SplitImages
) -> tuple[onnx.ModelProto, Quantization]:
    """Return the int8 model whose logits lie nearest the checkpoint's on validation images, and how it was made.

    Args:
        model: In fp32; it stays as it is.
        spec: Its contract.
        source: The checkpoint.
        images: Those of the run's splits; `tell` hears of each candidate.

    Raises:
        ModelError: onnxruntime cannot quantise the network.
        UsageError: There is no layer between the first and the last, or a calibration image cannot be read.
    """
    feed = Feed(spec)
    names = [node.name for node in layers(model)]
    if len(names) <= len(ENDS):
        raise UsageError(f"int8: the network has {len(names)} layers, and the first and the last stay in float")
    in_float = tuple(names[end] for end in ENDS)
    seen, chosen_on = (tensors_of(one, spec.input) for one in (images.calibration, images.validation))
    expected = source.logits(chosen_on)
    found = []
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder, _quiet():
        plain = Path(folder) / "plain.onnx"
        model = equalised(model, feed, seen)
        _prepare(model, plain)
        means = _mean_inputs(model, feed, seen)
        for calibrator in get_args(Calibrator):
            try:
                candidate = _static(plain, calibrator, {*around(model), *in_float}, _Reader(feed, seen))
            except Exception as error:  # noqa: BLE001 - onnxruntime's quantiser raises whatever it meets
                images.tell(f"int8, {calibrator}: onnxruntime cannot: {type(error).__name__}: {error}")
                continue
            correct_biases(candidate, model, means)
            keep_pooling_in_float(candidate)
            logits = logits_of(candidate, feed, chosen_on)
            distance = float(np.abs(logits - expected).mean())
            flips = np.count_nonzero(logits.argmax(axis=1) != expected.argmax(axis=1))
            found.append((distance if np.isfinite(distance) else math.inf, calibrator, candidate))
            told = f"{flips} of {len(logits)} validation labels change"
            images.tell(f"int8, {calibrator}: mean |dlogit| {distance:.3f}, {told}")
    if not found:
        raise ModelError("onnxruntime cannot quantise this network", hint="Export it in fp32.")
    _, calibrator, best = min(found, key=lambda one: one[0])
    digest = hashlib.sha256()
    for image in images.calibration:
        digest.update(bytes.fromhex(sha256(image.path)))
    return best, Quantization(
        calibrator=calibrator, images=len(seen), images_sha256=digest.hexdigest(), in_float=in_float
    )


def keep_pooling_in_float(quantised: onnx.ModelProto) -> None:
    """Have a pooling after the first layer that two nodes read (a ResNet's) computed as that layer is, in float.

    onnxruntime would move the rounding that follows before it, and pools integers fifteen times slower there: a third
    of resnet18. It cannot where two nodes read the pooling. So where two nodes read the rounded picture, each gets its
    own, on scales that differ in the last bit.

    Args:
        quantised: Changed in place.
    """
    graph = quantised.graph
    pooled = {node.output[0] for node in graph.node if node.op_type == "MaxPool"}
    in_integers = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    made = {node.output[0]: node for node in graph.node}
    scales = {tensor.name: tensor for tensor in graph.initializer}
    for number, down in reversed(list(enumerate(graph.node))):
        if down.op_type != "QuantizeLinear" or down.input[0] not in pooled:
            continue
        up = next(node for node in graph.node if down.output[0] in node.input)
        readers = [node for node in graph.node if up.output[0] in node.input]
        if len(readers) < 2 or made[down.input[0]].input[0] in in_integers:
            continue
        scale, zero = down.input[1:]
        other = f"{down.name}/again"
        nudged = np.nextafter(onnx.numpy_helper.to_array(scales[scale]), np.float32(np.inf))
        graph.initializer.append(onnx.numpy_helper.from_array(nudged, f"{other}/scale"))
        words = [f"{other}/scale", zero]
        nodes = [
            onnx.helper.make_node("QuantizeLinear", [down.input[0], *words], [f"{other}/levels"], f"{other}/down"),
            onnx.helper.make_node("DequantizeLinear", [f"{other}/levels", *words], [f"{other}/value"], f"{other}/up"),
        ]
        for place, node in enumerate(nodes):
            graph.node.insert(number + 1 + place, node)
        for reader in readers[1:]:
            reader.input[:] = [f"{other}/value" if name == up.output[0] else name for name in reader.input]


def correct_biases(quantised: onnx.ModelProto, plain: onnx.ModelProto, means: Mapping[str, Array]) -> None:
    """Take out of each convolution's bias what rounding its weights adds to its output on average.

    Nagel, M. et al. (2019): Data-free quantization through weight equalization and bias correction, section 4.2, with
    the mean inputs measured rather than inferred.

    Args:
        quantised: Changed in place.
        plain: The model that it was made from.
        means: The mean of each channel of a convolution's input, float (channels,), by the convolution's name.
    """
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    made = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    originals = {node.name: node for node in plain.graph.node}
    for node in quantised.graph.node:
        if node.name not in means or len(node.input) < 3 or not {node.input[1], node.input[2]} <= set(made):
            continue
        levels, scales = (onnx.numpy_helper.to_array(tensors[name]) for name in made[node.input[1]].input[:2])
        bias, bias_scales = (onnx.numpy_helper.to_array(tensors[name]) for name in made[node.input[2]].input[:2])
        rounded = levels.astype(np.float64) * scales.reshape(-1, 1, 1, 1)
        error = (rounded - onnx.numpy_helper.to_array(weights[originals[node.name].input[1]])).sum(axis=(2, 3))
        # Channels are taken by groups: as many of the input for each as the weights are deep.
        outputs, depth = error.shape
        group = np.arange(outputs) * (len(means[node.name]) // depth) // outputs
        shift = (error * means[node.name].reshape(-1, depth)[group]).sum(axis=1)
        corrected = (bias - np.rint(shift / bias_scales)).astype(np.int32)
        stored = tensors[made[node.input[2]].input[0]]
        stored.CopyFrom(onnx.numpy_helper.from_array(corrected, stored.name))


class _Reader:
    """What onnxruntime's calibration reads: runs by their number, so that it takes one at a time into memory."""

    def __init__(self, feed: Feed, tensors: npt.NDArray[np.uint8]) -> None:
        self._runs = list(feed(tensors))
        self._next = iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read those runs next."""
        self._next = iter(self._runs[start_index:end_index])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next run, or None."""
        return next(self._next, None)


def _prepare(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with every shape inferred, without which onnxruntime quantises nothing."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx.save(model, path)
    # The exporter has folded what there is to fold, and onnxruntime's own pass leaves its private operator sets behind.
    quant_pre_process(str(path), str(path), skip_optimization=True, skip_symbolic_shape=True)


def _static(plain: Path, calibrator: Calibrator, in_float: set[str], reader: _Reader) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    path = plain.with_name(f"{calibrator}.onnx")
    quantize_static(
        str(plain),
        str(path),
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTISED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
        nodes_to_exclude=sorted(in_float),
        calibrate_method=methods[calibrator],
        extra_options={"CalibStridedMinMax": 1, "CalibPercentile": PERCENTILE},
    )
    quantised = onnx.load(path)
    del quantised.graph.value_info[:]
    return quantised


def _mean_inputs(model: onnx.ModelProto, feed: Feed, tensors: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """Return the mean of each channel of what comes into each convolution, by its name."""
    convolutions = [node for node in layers(model) if node.op_type == "Conv"]
    if not convolutions:
        return {}
    watched = list(dict.fromkeys(node.input[0] for node in convolutions))
    sums: list[Any] = [0.0] * len(watched)
    runs = 0
    for found in inner_values(model, watched, feed, tensors):
        runs += 1
        sums = [total + value.mean(axis=(0, 2, 3)) for total, value in zip(sums, found, strict=True)]
    means = {name: total / runs for name, total in zip(watched, sums, strict=True)}
    return {node.name: means[node.input[0]] for node in convolutions}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The calibration prints and warns about its own doings; standard output is for what is asked for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
