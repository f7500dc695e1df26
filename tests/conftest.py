"""What tests of all three packages share: contracts, pictures, and a small model made without torch.

Builders are fixtures that return a function, so that test modules need import nothing from one another.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper

from medinfer.golden import golden_images, make_golden
from medinfer.imaging import preprocess
from medinfer.spec import SPEC_KEY, Graph, InputSpec, ModelSpec, Provenance

# A shared machine is slow at times, and a test's outcome must not depend on it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

CLASSES = ("red", "green", "blue")
# One class for each channel, the logits of whose solid colour are its row; gray is "red".
MATRIX = np.float32([[24, -12, -12], [-10, 22, -14], [-8, -16, 26]])


def _input_spec(**fields):
    channels = 1 if fields.get("color") == "gray" else 3
    return InputSpec(**{"height": 12, "width": 16, "mean": (0.0,) * channels, "std": (1.0,) * channels, **fields})


def _model_spec(**fields):
    provenance = Provenance(
        recipe="tiny", data_sha256="0" * 64, created="2024-05-06T07:08:09Z", versions={"medonnx": "0.1.0"}
    )
    defaults = {"name": "tiny", "classes": CLASSES, "task": "multiclass", "input": _input_spec(), "graph": Graph()}
    return ModelSpec(**{**defaults, "provenance": provenance, **fields})


def _logits(tensors, matrix=MATRIX):
    """Compute in numpy what the tiny model computes; tensors are uint8 (images, height, width, channels)."""
    return (tensors.astype(np.float64).mean(axis=(1, 2)) / 255 @ matrix.astype(np.float64)).astype(np.float32)


def _build_model(path, spec=None, *, matrix=MATRIX, batch="batch", text=None, ratio=False, golden=False):
    """Write a model of one matrix product; returns its path.

    `text` replaces the contract in the metadata ("" for none); `ratio` divides the features by themselves, so that a
    black picture gives NaN; `golden` stamps golden samples of the matrix MATRIX.
    """
    spec = spec or _model_spec()
    if golden:
        tensors = np.stack([preprocess(image, spec.input) for image in golden_images()])
        samples = make_golden(golden_images(), _logits(tensors, MATRIX[: spec.input.channels]), spec.input)
        spec = ModelSpec.from_json({**spec.to_json(), "golden": [sample.to_json() for sample in samples]})
    features = "features"
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], [features], keepdims=0),
    ]
    if ratio:
        nodes.append(helper.make_node("Div", [features, features], ["ones"]))
        features = "ones"
    nodes += [
        helper.make_node("MatMul", [features, "matrix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    extra = spec.graph.extra_outputs if spec.graph else ()
    if "ood_score" in extra:  # the darker, the farther out
        nodes.append(helper.make_node("ReduceMean", [features, "channels"], ["mean"], keepdims=0))
        nodes.append(helper.make_node("Sub", ["one", "mean"], ["ood_score"]))
    size = [batch, spec.input.height, spec.input.width, spec.input.channels]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, size)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, matrix.shape[1]])
            for name in ("probabilities", "logits")
        ]
        + [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch]) for name in extra],
        [
            onnx.numpy_helper.from_array(np.float32(1), "one"),
            onnx.numpy_helper.from_array(np.int64([1]), "channels"),
            onnx.numpy_helper.from_array(np.float32(1 / 255), "scale"),
            onnx.numpy_helper.from_array(np.int64([1, 2]), "axes"),
            onnx.numpy_helper.from_array(matrix[: spec.input.channels], "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    text = spec.dumps() if text is None else text
    if text:
        helper.set_model_props(model, {SPEC_KEY: text})
    onnx.save(model, path)
    return path


def _picture(height, width, channels=3, *, dtype=np.uint8, seed=0):
    """Return an array of noise about a mean that differs from channel to channel; (height, width) for 1 channel."""
    random = np.random.default_rng([height, width, channels, seed])
    top = np.iinfo(dtype).max
    centre = random.uniform(0.2, 0.8, channels)
    noise = random.uniform(-0.2, 0.2, (height, width, channels))
    array = np.floor((centre + noise) * top).astype(dtype)
    return array[..., 0] if channels == 1 else array


@pytest.fixture(scope="session")
def input_spec():
    """The `input` of a contract, with defaults: `input_spec(color="gray")`."""
    return _input_spec


@pytest.fixture(scope="session")
def model_spec():
    """A contract, with defaults: `model_spec(name="x")`."""
    return _model_spec


@pytest.fixture(scope="session")
def build_model():
    """Writes a variant of the tiny model: `build_model(path, spec, ...)`."""
    return _build_model


@pytest.fixture(scope="session")
def numpy_logits():
    """What the tiny model answers, computed in numpy."""
    return _logits


@pytest.fixture(scope="session")
def picture():
    """Synthetic pixels: `picture(height, width, channels, dtype=..., seed=...)`."""
    return _picture


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of a valid model of three classes, 12x16 RGB, with golden samples; not to be changed."""
    return _build_model(tmp_path_factory.mktemp("model") / "tiny.onnx", golden=True)
