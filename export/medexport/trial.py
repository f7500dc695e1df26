"""Runs a model that is no file yet on tensors: what its precision is chosen by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from medinfer.graph import INPUTS, as_fed
from medinfer.spec import Graph, ModelSpec

Array = npt.NDArray[Any]

# Images whose activations are held at once.
CHUNK = 4


class Feed:
    """What a graph is fed, in runs of as many images as it takes."""

    def __init__(self, spec: ModelSpec) -> None:
        graph = spec.graph or Graph()
        self.kind, self.name = graph.input, INPUTS[graph.input]
        self.size = graph.batch or CHUNK

    def __call__(self, tensors: npt.NDArray[np.uint8]) -> Iterator[dict[str, Array]]:
        """Yield runs; the last is filled up with the first images."""
        for start in range(0, len(tensors), self.size):
            yield {self.name: as_fed(tensors[np.arange(start, start + self.size) % len(tensors)], self.kind)}


def logits_of(model: onnx.ModelProto, feed: Feed, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what a model says of preprocessed images, uint8 (n, H, W, C): float32 (n, classes)."""
    session = session_of(model)
    rows = np.concatenate([session.run(["logits"], fed)[0] for fed in feed(tensors)])
    return np.asarray(rows[: len(tensors)])


def inner_values(
    model: onnx.ModelProto, names: Sequence[str], feed: Feed, tensors: npt.NDArray[np.uint8]
) -> Iterator[list[Array]]:
    """Yield, run by run, the values inside a model that are named."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = session_of(watched)
    for fed in feed(tensors):
        yield session.run(None, fed)


def session_of(model: onnx.ModelProto) -> Any:
    """Return onnxruntime's session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
