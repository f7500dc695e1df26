"""A classifier in torch -> a clean ONNX graph: images in, probabilities and logits out."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from medexport.heatmap import find_pooled, watched_output
from medexport.resize import with_resize
from medinfer.choices import OOD_SCORE
from medinfer.errors import ModelError
from medinfer.graph import HEATMAP, INPUTS, OUTPUTS
from medinfer.spec import Graph, ModelSpec
from medtrain.network import Classifier, knows_outliers

OPSET = 18
# The exporter writes 10, which onnxruntime 1.17 refuses; nothing in these graphs needs more than 8.
IR_VERSION = 8
# Elements: above the masks and position tables that windowed attention computes anew on every run.
LARGEST_CONSTANT = 1 << 24


class Deployable(nn.Module):
    """A classifier as a host feeds it: probabilities and logits, (batch, classes), and its score, (batch,), if any.

    Args:
        classifier: Takes pixels (batch, C, H, W) on 0..255.
        spec: Its contract; `graph` tells what the host feeds.
    """

    def __init__(self, classifier: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = spec.calibration.temperature
        graph = spec.graph or Graph()
        self.takes_pixels = graph.input != "float"
        self.pooled = find_pooled(classifier, spec.input) if HEATMAP in graph.extra_outputs else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return (probabilities, logits), and what else the contract names: see `output_names`."""
        # Without contiguous() the tensor stays channels-last, and the exporter surrounds every pooling with
        # arithmetic on shapes.
        pixels = image.permute(0, 3, 1, 2).contiguous() if self.takes_pixels else image * 255
        scored = knows_outliers(self.classifier)
        maps: list[Tensor] = []
        with watched_output(self.pooled.maps, maps) if self.pooled else contextlib.nullcontext():
            logits, *more = cast(Classifier, self.classifier).scored(pixels) if scored else (self.classifier(pixels),)
        if self.pooled:
            more.append(self.pooled.heatmap(maps[0]))
        scaled = logits if self.temperature == 1 else logits / self.temperature
        return torch.softmax(scaled, dim=1), logits, *more


def output_names(classifier: nn.Module, graph: Graph) -> list[str]:
    """Return what the graph's outputs are called."""
    more = [OOD_SCORE] * knows_outliers(classifier) + [HEATMAP] * (HEATMAP in graph.extra_outputs)
    return [*OUTPUTS, *more]


def to_onnx(classifier: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Convert; the image's size is the contract's, and the batch dynamic unless `spec.graph.batch` fixes it.

    Raises:
        ModelError: The exporter cannot convert the network, or wrote another opset than asked for.
    """
    program = to_program(classifier, spec)
    # Over what the exporter itself folds: whatever depends on no image is computed now and not on every run.
    onnxscript.optimizer.fold_constants_ir(
        program.model,
        input_size_limit=LARGEST_CONSTANT,
        output_size_limit=LARGEST_CONSTANT,
        should_fold=lambda node: True,
    )
    onnxscript.optimizer.remove_unused_nodes(program.model)
    model = _clean(program.model_proto)
    return with_resize(model, spec) if spec.graph and spec.graph.input == "image" else model


def to_program(classifier: nn.Module, spec: ModelSpec) -> torch.onnx.ONNXProgram:
    """Convert, keeping the traced program beside the graph; raises ModelError."""
    deployable = Deployable(classifier, spec).eval()
    graph = spec.graph or Graph()
    example = _example(spec, graph)
    shapes = None if graph.batch else {"image": {0: torch.export.Dim("batch")}}
    try:
        with _quiet():
            traced = torch.export.export(deployable, (example,), dynamic_shapes=shapes)
            traced = traced.run_decompositions(cast(Any, DECOMPOSITIONS))
            program = torch.onnx.export(
                traced,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUTS[graph.input]],
                output_names=output_names(classifier, graph),
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:  # tracing runs the network's own code and raises whatever that does
        raise ModelError(f"this network cannot be exported: {_first_line(error)}", hint=_cure(error)) from error
    assert program is not None  # only the old exporter returns nothing
    return program


def _example(spec: ModelSpec, graph: Graph) -> Tensor:
    # Two images: some versions of the exporter take a batch of one for a constant.
    batch, size = graph.batch or 2, spec.input
    if graph.input != "float":
        return torch.zeros(batch, size.height, size.width, size.channels, dtype=torch.uint8)
    return torch.zeros(batch, size.channels, size.height, size.width)


def _global_average(x: Tensor, size: Any) -> Tensor:
    """Pool to one pixel as a mean: traced as it is, the result keeps a memory layout, spelt out in shape arithmetic."""
    return x.mean((-2, -1), keepdim=True) if list(size) == [1, 1] else cast(Tensor, NotImplemented)


def _attention(  # noqa: PLR0913 - torch's own signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend by Vaswani et al. 2017, eq. 1: the exporter's own way asks for shapes that are known."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return cast(Tensor, NotImplemented)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return torch.softmax((query * scale) @ key.transpose(-2, -1), dim=-1) @ value


def _pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad by nothing as nothing."""
    return cast(Tensor, NotImplemented) if any(pad) else x.clone()


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.adaptive_avg_pool2d.default: _global_average,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch.ops.aten.pad.default: _pad,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about its own doings; what matters is raised, and the verdict follows."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _cure(error: Exception) -> str:
    text = str(error)
    if "data-dependent" in text:
        return "Decisions in Python that depend on pixel values cannot be exported: write them with torch.where."
    return "It may depend on the batch size: try --static-batch 1." if "batch" in text else ""


def _clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what tells of the machine that exported (stack traces, source paths), and set the versions."""
    model.ir_version = IR_VERSION
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != OPSET:
        raise ModelError(f"the exporter wrote opset {opsets.get('')}, not {OPSET}")
    del model.metadata_props[:]
    _strip(model.graph)
    for name in [entry for entry in model.opset_import if entry.domain]:
        if not any(node.domain == name.domain for node in model.graph.node):
            model.opset_import.remove(name)
    return model


def _strip(graph: Any) -> None:
    """Remove metadata and documentation from a graph and all that is in it."""
    del graph.value_info[:]  # shapes in between, which every runtime infers itself
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
