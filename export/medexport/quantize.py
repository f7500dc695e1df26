"""fp32 -> int8 by onnxruntime's static quantisation: channels equalised, biases corrected, the best of three ranges.

QDQ with uint8 activations and int8 weights, symmetric for each channel: what processors with VNNI multiply fastest.
Weights stay within 64: processors without VNNI add two products in 16 bits, and above that would answer otherwise, with
nothing said. One scale for a whole tensor of weights is no faster, and loses depthwise networks altogether.

The last layer stays in float, for int8 logits could not leave the range seen; so do the first ones: what is rounded
there moves the logits most. As few of them as keep the labels of the validation images. Weights trained on after
rounding, towards the checkpoint's answers, were tried: ten minutes took a seventh off the mean difference of a
mobilenet_v2, of which six layers in float take a half.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from medexport.equalise import equalised, is_depthwise
from medexport.layers import around, layers
from medexport.source import Source, sha256
from medexport.splits import SplitImages, tensors_of
from medexport.trial import Feed, inner_values, logits_of
from medinfer.agreement import most_flips
from medinfer.errors import ModelError, UsageError
from medinfer.spec import ModelSpec, Quantization

Array = npt.NDArray[Any]
Calibrator = Literal["minmax", "percentile", "entropy"]

# What onnxruntime has integer kernels for, so that activations stay integers from one layer to the next.
QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Sigmoid", "Relu", "Clip", "Concat", "AveragePool")
PERCENTILE = 99.99
# How many of the first layers stay in float, tried in turn; at most a quarter of the network, but one. Where the second
# is depthwise, it and what follows it are no faster in int8: their pictures are the largest, and have few channels.
FIRST_IN_FLOAT = (1, 3, 6)
FIRST_BEFORE_DEPTHWISE = (3, 6, 12)


def quantise(
    model: onnx.ModelProto, spec: ModelSpec, source: Source, images: SplitImages
) -> tuple[onnx.ModelProto, Quantization]:
    """Return an int8 model, and how it was made: with the fewest layers in float that keep the validation labels.

    Of three calibrations the one whose logits lie nearest the checkpoint's on validation images; if no labels are
    kept, the nearest of all.

    Args:
        model: In fp32; it stays as it is.
        spec: Its contract.
        source: The checkpoint.
        images: Those of the run's splits; `tell` hears of each candidate.

    Raises:
        ModelError: onnxruntime cannot quantise the network.
        UsageError: There is no layer between the first and the last, or a calibration image cannot be read.
    """
    tried, feed = _in_float(model), Feed(spec)
    seen, chosen_on = (tensors_of(one, spec.input) for one in (images.calibration, images.validation))
    expected = source.logits(chosen_on)
    model = equalised(model, feed, seen)
    found: list[_Candidate] = []
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder, _quiet():
        plain = Path(folder) / "plain.onnx"
        _prepare(model, plain)
        means = _mean_inputs(model, feed, seen)
        ranges = dict(_ranges(plain, feed, seen, images.tell))
        for in_float, (calibrator, measured) in itertools.product(tried, ranges.items()):
            if any(candidate.keeps and candidate.in_float != in_float for candidate in found):
                break
            try:
                quantised = _quantised(plain, measured, {*around(model), *in_float})
            except Exception as error:  # noqa: BLE001 - onnxruntime's quantiser raises whatever it meets
                images.tell(_cannot(calibrator, error))
                continue
            correct_biases(quantised, model, means)
            keep_pooling_in_float(quantised)
            logits = logits_of(quantised, feed, chosen_on)
            found.append(_Candidate.of(quantised, calibrator, in_float, logits, expected))
            images.tell(f"int8, {found[-1]}")
    if not found:
        raise ModelError("onnxruntime cannot quantise this network", hint="Export it in fp32.")
    best = min(found, key=lambda candidate: (not candidate.keeps, candidate.distance))
    digest = hashlib.sha256()
    for image in images.calibration:
        digest.update(bytes.fromhex(sha256(image.path)))
    return best.model, Quantization(
        calibrator=best.calibrator, images=len(seen), images_sha256=digest.hexdigest(), in_float=best.in_float
    )


@dataclass(frozen=True)
class _Candidate:
    """One way to quantise, and what it says of the validation images."""

    model: onnx.ModelProto
    calibrator: Calibrator
    in_float: tuple[str, ...]
    distance: float
    """Mean |dlogit|."""
    flips: int
    images: int

    @classmethod
    def of(
        cls, model: onnx.ModelProto, calibrator: Calibrator, in_float: tuple[str, ...], logits: Array, expected: Array
    ) -> _Candidate:
        distance = float(np.abs(logits - expected).mean())
        flips = np.count_nonzero(logits.argmax(axis=1) != expected.argmax(axis=1))
        distance = distance if np.isfinite(distance) else math.inf
        return cls(model, calibrator, in_float, distance, int(flips), len(expected))

    @property
    def keeps(self) -> bool:
        """Whether as many labels stay as the verdict will ask for."""
        return math.isfinite(self.distance) and self.flips <= most_flips(self.images)

    def __str__(self) -> str:
        told = f"{self.flips} of {self.images} validation labels change"
        return f"{self.calibrator}, {len(self.in_float)} layers in float: mean |dlogit| {self.distance:.3f}, {told}"


def _in_float(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Return the names of the layers that stay in float, the fewest first; raises UsageError if no others are left."""
    weighted = layers(model)
    if len(weighted) <= 2:
        raise UsageError(f"int8: the network has {len(weighted)} layers, and the first and the last stay in float")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    firsts = FIRST_BEFORE_DEPTHWISE if is_depthwise(weighted[1], weights) else FIRST_IN_FLOAT
    most = max(1, len(weighted) // 4)
    names = [node.name for node in weighted]
    return [(*names[:first], names[-1]) for first in sorted({min(first, most) for first in firsts})]


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


def _prepare(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with every shape inferred, without which onnxruntime quantises nothing."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx.save(model, path)
    # The exporter has folded what there is to fold, and onnxruntime's own pass leaves its private operator sets behind.
    quant_pre_process(str(path), str(path), skip_optimization=True, skip_symbolic_shape=True)


def _ranges(
    plain: Path, feed: Feed, tensors: npt.NDArray[np.uint8], tell: Callable[[str], None]
) -> Iterator[tuple[Calibrator, Any]]:
    """Yield each calibrator and the ranges of activations that it finds; not those that cannot."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    for calibrator in get_args(Calibrator):
        try:
            found = create_calibrator(
                plain,
                list(QUANTISED),
                augmented_model_path=str(plain.with_name(f"{calibrator}.onnx")),
                calibrate_method=methods[calibrator],
                extra_options={"percentile": PERCENTILE} if calibrator == "percentile" else {},
            )
            for run in feed(tensors):  # one run's activations are held at a time
                found.collect_data(_Runs(run))
            yield calibrator, found.compute_data()
        except Exception as error:  # noqa: BLE001 - onnxruntime's calibration raises whatever it meets
            tell(_cannot(calibrator, error))


def _cannot(calibrator: Calibrator, error: Exception) -> str:
    return f"int8, {calibrator}: onnxruntime cannot: {type(error).__name__}: {error}"


class _Runs:
    """What onnxruntime's calibration reads: one run."""

    def __init__(self, run: dict[str, Array]) -> None:
        self._left = [run]

    def get_next(self) -> dict[str, Array] | None:
        """Return the next run, or None."""
        return self._left.pop() if self._left else None


def _quantised(plain: Path, ranges: Any, in_float: set[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QDQQuantizer, QuantType

    quantizer = QDQQuantizer(
        onnx.load(plain),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(in_float),
        op_types_to_quantize=list(QUANTISED),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
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
