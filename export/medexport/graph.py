"""A classifier in torch -> a clean ONNX graph: raw pixels in, probabilities and logits out."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn

from medinfer.errors import ModelError
from medinfer.model import OUTPUTS
from medinfer.spec import ModelSpec

INPUT = "image"
OPSET = 18
# The exporter writes 10, which onnxruntime 1.17 refuses; nothing in these graphs needs more than 8.
IR_VERSION = 8


class Deployable(nn.Module):
    """A classifier as a host feeds it: uint8 (batch, H, W, C) -> probabilities and logits, (batch, classes)."""

    def __init__(self, classifier: nn.Module, temperature: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (probabilities, logits)."""
        # Without contiguous() the tensor stays channels-last, and the exporter surrounds every pooling with
        # arithmetic on shapes.
        pixels = image.permute(0, 3, 1, 2).contiguous()
        logits = cast(Tensor, self.classifier(pixels))
        scaled = logits if self.temperature == 1 else logits / self.temperature
        return torch.softmax(scaled, dim=1), logits


def to_onnx(classifier: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Convert; the batch is dynamic, the size is the contract's.

    Raises:
        ModelError: The exporter cannot convert the network, or wrote another opset than asked for.
    """
    deployable = Deployable(classifier, spec.calibration.temperature).eval()
    size = spec.input
    # Two images: some versions of the exporter take a batch of one for a constant.
    example = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployable,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=OUTPUTS,
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"this network cannot be exported: {str(error).splitlines()[0]}") from error
    assert program is not None  # only the old exporter returns nothing
    return _clean(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own doings; what matters is raised, and the verdict follows."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


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
