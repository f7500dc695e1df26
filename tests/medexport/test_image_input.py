"""`--input image`: the resize inside the graph, for hosts that can only decode."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from onnx import TensorProto, helper

import medinfer
from medexport.build import build_file
from medexport.resize import with_resize
from medinfer.cli import cli as medinfer_cli
from medinfer.errors import ModelError, SpecError, UsageError
from medinfer.spec import Crop, CropFit, Graph, InputSpec, ModelSpec, Pad, PadFit

WHOLE = Graph(input="image", batch=1)


def resizer(height, width, channels):
    """A graph that gives back what the resize makes."""
    color = {1: "gray", 3: "rgb"}[channels]
    spec = InputSpec(height=height, width=width, color=color, mean=(0.5,) * channels, std=(0.5,) * channels)
    shape = [1, height, width, channels]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("image", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["out"])], "same", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = with_resize(model, ModelSpec(name="same", classes=("a", "b"), task="binary", input=spec))
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


TARGETS = [(224, 224, 3), (70, 70, 1), (31, 50, 3), (1, 1, 1)]
RESIZERS = {target: resizer(*target) for target in TARGETS}
sides = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TARGETS), sides, sides, st.integers(0, 2**32 - 1))
def test_the_resize_in_the_graph_is_opencvs_to_the_last_bit(target, rows, columns, seed):
    height, width, channels = target
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), np.uint8)
    wanted = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(target)
    (found,) = RESIZERS[target].run(None, {"image": image[None]})
    assert np.array_equal(found[0], wanted)


@pytest.mark.parametrize("shape", [(224, 224), (448, 448), (112, 112), (1, 900), (900, 1), (2000, 1500), (224, 1)])
def test_sizes_that_opencv_treats_apart_are_no_exception(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (found,) = RESIZERS[224, 224, 3].run(None, {"image": image[None]})
    assert np.array_equal(found[0], cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR))


@pytest.fixture(scope="module")
def linear(make_source, spec):
    return make_source(spec=replace(spec, input=replace(spec.input, interpolation="linear", min_side=5)))


@pytest.fixture(scope="module")
def folder(linear, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    build_file(linear, folder / "m.onnx")
    build_file(linear, folder / "m.image.onnx", graph=WHOLE)
    return folder


def test_it_is_verified_as_strictly_as_the_default_file(folder):
    agreement = medinfer.load(folder / "m.image.onnx", "cpu").spec.agreement
    for found in (agreement.differences, agreement.battery):
        assert found.label_flips == 0
        assert found.max_logit <= found.tolerance < 1e-2
    done = CliRunner().invoke(medinfer_cli, ["verify", str(folder / "m.image.onnx"), "--provider", "cpu"])
    assert done.exit_code == 0


def test_it_answers_as_the_default_file_whatever_the_size_and_kind_of_an_image(folder, picture, tmp_path):
    shapes = [(9, 300, 3), (64, 64, 1), (500, 41, 3), (48, 40, 3), (4, 100, 3)]
    images = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
    images.append(picture(20, 30, 1, dtype=np.uint16))
    cv2.imwrite(str(tmp_path / "x.jpg"), picture(90, 80, 3))
    (tmp_path / "bad.png").write_bytes(b"")
    images += [tmp_path / "x.jpg", tmp_path / "bad.png"]
    default, inside = (medinfer.load(folder / name, "cpu") for name in ("m.onnx", "m.image.onnx"))
    pairs = list(zip(default.predict_many(images), inside.predict_many(images), strict=True))
    codes = [found.error and found.error.code for _, found in pairs]
    assert codes == [None, None, None, None, "too_small", None, None, "empty_file"]
    for wanted, found in pairs:
        if wanted.error:
            assert found.error.code == wanted.error.code
        else:
            assert np.abs(found.raw - wanted.raw).max() < 1e-5
    batch = inside.predict_batch(images, color="bgr")
    assert [one.error is None for one in batch] == [found.error is None for _, found in pairs]


def test_a_gray_contract_takes_gray_images(make_source, spec, picture, tmp_path):
    gray = replace(spec.input, color="gray", mean=(0.5,), std=(0.25,), interpolation="linear")
    source = make_source(spec=replace(spec, input=gray))
    build_file(source, tmp_path / "g.onnx", graph=WHOLE)
    image = picture(70, 90, 3)
    found = medinfer.load(tmp_path / "g.onnx", "cpu").predict(image)
    wanted = source.logits(medinfer.preprocess(image, gray)[None])
    assert np.abs(found.raw - wanted[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interpolation": "area"}, "area"),
        ({"interpolation": "cubic"}, "cubic"),
        ({"interpolation": "linear", "fit": CropFit(crop=Crop(resize=64))}, "crop"),
        ({"interpolation": "linear", "fit": PadFit(pad=Pad())}, "pad"),
    ],
)
def test_what_the_graph_cannot_do_is_refused_with_the_reason(fields, words, make_source, spec, tmp_path):
    source = make_source(spec=replace(spec, input=replace(spec.input, **fields)))
    with pytest.raises(UsageError, match=f"contract says {words}") as caught:
        build_file(source, tmp_path / "m.onnx", graph=WHOLE)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_an_image_of_any_size_comes_alone():
    with pytest.raises(SpecError, match="one by one"):
        Graph(input="image")


def test_a_contract_that_promises_any_size_of_a_graph_with_one_is_refused(linear, folder, tmp_path):
    model = onnx.load(folder / "m.image.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 48
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ModelError, match="its inputs are"):
        medinfer.load(tmp_path / "fixed.onnx", "cpu")
