from __future__ import annotations

import base64
import json

import numpy as np
import onnx
import pytest

import medinfer
from medinfer.errors import ModelError
from medinfer.golden import golden_images, make_golden
from medinfer.spec import SPEC_KEY


@pytest.fixture
def changed(tiny_model, tmp_path):
    """A copy of the tiny model whose contract a function has changed, opened."""

    def make(change):
        proto = onnx.load(tiny_model)
        data = json.loads(proto.metadata_props[0].value)
        change(data)
        onnx.helper.set_model_props(proto, {SPEC_KEY: json.dumps(data)})
        onnx.save(proto, tmp_path / "changed.onnx")
        return medinfer.load(tmp_path / "changed.onnx", "cpu")

    return make


def test_a_sound_model_reproduces_its_golden_samples_exactly(tiny_model):
    report = medinfer.verify(medinfer.load(tiny_model, "cpu"))
    assert report.passes
    assert report.samples == 3
    assert report.max_level_difference == 0
    assert report.differing_pixels == 0
    assert report.comparison.is_telling


@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("fit", ["stretch", {"crop": {"resize": 20}}, {"pad": {"value": 3}}], ids=str)
def test_models_of_every_fit_and_colour_reproduce_theirs(fit, color, build_model, model_spec, input_spec, tmp_path):
    spec = model_spec(input=input_spec(fit=fit, color=color))
    path = build_model(tmp_path / "model.onnx", spec, golden=True)
    assert medinfer.verify(medinfer.load(path, "cpu")).passes


@pytest.mark.parametrize("weight", [(0, 0), (2, 1)])
def test_altered_weights_are_found(weight, tiny_model, tmp_path):
    proto = onnx.load(tiny_model)
    matrix = next(tensor for tensor in proto.graph.initializer if tensor.name == "matrix")
    values = onnx.numpy_helper.to_array(matrix).copy()
    values[weight] *= 1.01
    matrix.CopyFrom(onnx.numpy_helper.from_array(values, "matrix"))
    onnx.save(proto, tmp_path / "altered.onnx")
    report = medinfer.verify(medinfer.load(tmp_path / "altered.onnx", "cpu"))
    assert not report.passes
    assert report.max_level_difference == 0
    assert report.comparison.max_difference > report.comparison.tolerance


@pytest.mark.parametrize(
    ("field", "value"), [("interpolation", "area"), ("fit", {"pad": {}}), ("fit", {"crop": {"resize": 17}})]
)
def test_a_contract_changed_after_the_export_is_found(field, value, changed):
    report = medinfer.verify(changed(lambda data: data["input"].update({field: value})))
    assert not report.passes
    assert report.max_level_difference > 1
    assert 0 < report.differing_pixels <= 1


@pytest.mark.parametrize(("levels", "passes"), [(1, True), (-1, True), (2, False), (-2, False)])
def test_a_pixel_may_be_one_grey_level_off_and_no_more(levels, passes, changed, pillow, encode):
    def shift(data):
        tensor = pillow(base64.b64decode(data["golden"][1]["tensor"])).astype(int)
        place = np.unravel_index(np.abs(tensor - 128).argmin(), tensor.shape)
        tensor[place] += levels
        data["golden"][1]["tensor"] = base64.b64encode(encode(tensor.astype(np.uint8), "PNG")).decode()

    report = medinfer.verify(changed(shift))
    assert report.max_level_difference == abs(levels)
    assert report.differing_pixels == pytest.approx(1 / (3 * 12 * 16 * 3))
    assert report.passes is passes


def test_samples_in_another_order_are_found(changed):
    def swap(data):
        first, second = data["golden"][:2]
        first["logits"], second["logits"] = second["logits"], first["logits"]

    report = medinfer.verify(changed(swap))
    assert not report.passes
    assert report.max_level_difference == 0


@pytest.mark.parametrize("samples", [None, []])
def test_a_model_without_golden_samples_is_refused(samples, changed):
    model = changed(lambda data: data.pop("golden") if samples is None else data.update(golden=samples))
    with pytest.raises(ModelError, match="no golden samples") as caught:
        medinfer.verify(model)
    assert "medexport onnx" in caught.value.hint


DAMAGED = ["", "$$$", "ü", base64.b64encode(b"no picture").decode()]


@pytest.mark.parametrize("field", ["image", "tensor"])
@pytest.mark.parametrize("text", DAMAGED, ids=["empty", "not base64", "not ascii", "not an image"])
def test_a_damaged_golden_sample_is_a_refused_model_that_names_it(text, field, changed):
    model = changed(lambda data: data["golden"][1].update({field: text}))
    with pytest.raises(ModelError, match=rf"golden\[1\]\.{field}"):
        medinfer.verify(model)


def test_a_stored_tensor_of_another_size_is_a_refused_model(changed):
    def shrink(data):
        data["golden"][2]["tensor"] = data["golden"][2]["image"]

    with pytest.raises(ModelError, match=r"golden\[2\]\.tensor"):
        medinfer.verify(changed(shrink))


def test_the_source_images_are_of_different_shapes_and_full_of_contrast():
    images = golden_images()
    assert len({image.shape for image in images}) == len(images) == 3
    for image in images:
        assert image.dtype == np.uint8
        assert np.ptp(image.reshape(-1, 3), axis=0).min() > 100
    # Worked by hand: 1 x 7 + 2 x 3 k + (1 x 2 x k) // 5 in row 2, column 1; 27 x 14 = 378 is turned back to 510 - 378.
    assert images[0][2, 1].tolist() == [13, 19, 26]
    assert images[1][0, 27].tolist() == [132, 132, 132]


def test_tensors_are_stored_up_to_a_limit_and_one_always(input_spec, monkeypatch):
    def make():
        return make_golden(golden_images(), np.zeros((3, 2), np.float32), input_spec(height=64, width=64))

    sizes = [len(sample.tensor) for sample in make()]
    for limit, count in ((sum(sizes), 3), (sum(sizes) - 1, 2), (sizes[0], 1), (0, 1)):
        monkeypatch.setattr("medinfer.golden.MOST_BYTES", limit)
        assert len(make()) == count
