"""Where do file and checkpoint part? The first value inside the graph that differs from torch's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import fx

from medexport.graph import output_names, to_program
from medexport.reference import ReferenceImages
from medexport.source import Source
from medexport.verify import differing_fields, stored_precision
from medinfer.errors import DisagreementError, ImageError, UsageError
from medinfer.graph import as_fed
from medinfer.imaging import preprocess, read_image
from medinfer.model import load
from medinfer.spec import Graph

# Of a value's own range. Rounding stays far below it, and a weight that is off by 1 % lies above.
LARGEST_DIFFERENCE = 1e-3
SMALLEST_SPAN = 1e-6
IMAGES = 4

Values = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Divergence:
    """The first place where a file's answer leaves the checkpoint's."""

    where: str
    difference: float = 0.0
    """Largest absolute difference there."""
    span: float = 0.0
    """Range of the checkpoint's values there."""

    def __str__(self) -> str:
        figures = f": off by {self.difference:.2g} in values that span {self.span:.2g}" if self.span else ""
        return self.where + figures


def explained(
    error: DisagreementError, source: Source, path: str | os.PathLike[str], reference: ReferenceImages, *, bisect: bool
) -> DisagreementError:
    """Return a verdict's error with where the difference begins, or how to learn that."""
    if bisect:
        return DisagreementError(f"{error.message}. {located(source, path, reference)}", hint=error.hint)
    # In fp16 and int8 every node differs.
    bisectable = stored_precision(Path(path)) == "fp32"
    hint = "--bisect names the first node that differs." if bisectable else ""
    return DisagreementError(error.message, hint=error.hint or hint)


def located(source: Source, path: str | os.PathLike[str], reference: ReferenceImages) -> str:
    """Return a sentence on where a file first differs from its source; never raises over what it cannot find."""
    try:
        found = first_difference(source, path, reference)
    except Exception as error:  # noqa: BLE001 - the verdict that is being explained must not be lost
        return f"The first difference could not be located: {error}"
    if found is None:
        percent = 100 * LARGEST_DIFFERENCE
        return f"No value inside is off by over {percent:g} % of its range: the difference grows little by little"
    return f"The first difference: {found}"


def first_difference(source: Source, path: str | os.PathLike[str], reference: ReferenceImages) -> Divergence | None:
    """Return where a file first differs from its source, or None if it nowhere does.

    Values are matched by the names that the exporter gives them, so it takes a file of the same exporter; BatchNorm
    that was folded has no value of its own.

    Raises:
        ModelError: The file cannot be read.
        UsageError: No image can be read, or the values' names match nothing.
    """
    found = load(path, "cpu").spec
    contracts = differing_fields(source.spec, found)
    if contracts:
        return Divergence(f"before the graph: the contracts differ in {', '.join(contracts)}")
    graph = found.graph or Graph()
    fed = as_fed(_tensors(source, reference, graph.batch or IMAGES), graph.input)
    wanted = _in_torch(source, graph, fed)
    observed = _in_file(Path(path), wanted, fed)
    if all(node.name in output_names(source.classifier, graph) for node in observed):
        raise UsageError(f"{path}: no value inside it has a name that this exporter gives", hint="Export it again.")
    for node, values in observed.items():
        difference, span = _difference(wanted[node.name], values)
        if not difference <= LARGEST_DIFFERENCE * max(span, SMALLEST_SPAN):
            return Divergence(f"inside the graph: {node}", difference, span)
    return None


@dataclass(frozen=True)
class Node:
    """One node of the file's graph, by the value that it makes."""

    name: str
    operator: str
    weights: tuple[str, ...]

    def __str__(self) -> str:
        named = f" with {', '.join(self.weights)}" if self.weights else ""
        return f"{self.operator} {self.name!r}{named}"


class _Recorder(fx.Interpreter):
    """Runs a traced program and keeps every floating-point value under its node's name."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.values: dict[str, npt.NDArray[Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep what it makes."""
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor) and result.is_floating_point():
            self.values[n.name] = result.numpy().copy()  # a later node may work in place
        return result


def _tensors(source: Source, reference: ReferenceImages, count: int) -> npt.NDArray[np.uint8]:
    """Return the first usable images, over again where there are fewer than `count`."""
    tensors: list[npt.NDArray[np.uint8]] = []
    for image in reference.fitting(source.spec.input).images:
        with contextlib.suppress(ImageError):
            tensors.append(preprocess(read_image(image, source.spec.input), source.spec.input))
        if len(tensors) == count:
            break
    if not tensors:
        raise UsageError(f"none of {len(reference.images)} images can be read")
    return np.stack([tensors[i % len(tensors)] for i in range(count)])


def _in_torch(source: Source, graph: Graph, fed: npt.NDArray[Any]) -> Values:
    """Return every value of the checkpoint's own program, and what it returns under the outputs' names."""
    program = to_program(source.classifier, replace(source.spec, graph=graph)).exported_program
    assert program is not None  # it was traced before it was converted
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        answers = recorder.run(torch.from_numpy(fed))
    return recorder.values | {
        name: value.numpy() for name, value in zip(output_names(source.classifier, graph), answers, strict=True)
    }


def _in_file(path: Path, wanted: Values, fed: npt.NDArray[Any]) -> dict[Node, npt.NDArray[Any]]:
    """Return the file's values of the names wanted, in the order in which its graph computes them."""
    import onnxruntime

    model = onnx.load(path)
    tensors = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        Node(name, node.op_type, tuple(weight for weight in node.input if weight in tensors))
        for node in model.graph.node
        for name in node.output
        if name in wanted
    ]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.name) for node in nodes)
    options = onnxruntime.SessionOptions()
    # Every value as the graph states it: optimised, some would no longer be computed.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {session.get_inputs()[0].name: fed})
    return dict(zip(nodes, values, strict=True))


def _difference(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference and the range of what is wanted."""
    if wanted.shape != found.shape:
        return float("inf"), float(np.ptp(wanted))
    return float(np.abs(wanted - found).max()), float(np.ptp(wanted))
