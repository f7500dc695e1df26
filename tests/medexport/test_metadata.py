"""What other tools read of a file and beside it."""

import ast
import json
from dataclasses import replace

import onnx
import pytest
from click.testing import CliRunner

import medinfer
from medexport.build import build_file, write_sidecars
from medexport.metadata import keys
from medexport.sidecars import Sidecars, check_hf
from medinfer.errors import UsageError
from medinfer.spec import Crop, CropFit, Graph, Pad, PadFit


def props(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def floats(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "model.float.onnx"
    build_file(source, path, graph=Graph(input="float", batch=1))
    return path


def test_ultralytics_keys_are_python_literals_that_tell_the_contract(floats):
    found = props(floats)
    assert ast.literal_eval(found["names"]) == {0: "a", 1: "b", 2: "c"}
    assert ast.literal_eval(found["imgsz"]) == [48, 40]
    assert (found["task"], found["batch"], found["channels"], found["stride"]) == ("classify", "1", "3", "1")
    assert found["date"] == "2026-01-01T00:00:00+00:00"


def test_model_api_keys_tell_labels_without_spaces_and_how_to_scale(source, floats):
    found = props(floats)
    assert found["model_info model_type"] == "Classification"
    assert found["model_info scale_values"] == "255 255 255"
    spaced = replace(source.spec, classes=("no tumor", "b", "c"), graph=Graph())
    told = keys(spaced)
    assert told["model_info labels"] == "no_tumor b c"
    assert "model_info scale_values" not in told  # raw pixels are not scaled by the host


@pytest.mark.parametrize(
    ("fit", "resize"),
    [
        ("stretch", "standard"),
        (CropFit(crop=Crop(resize=64)), "crop"),
        (PadFit(pad=Pad(value=7)), "fit_to_window_letterbox"),
        (PadFit(pad=Pad(anchor="top_left")), "fit_to_window"),
    ],
)
def test_model_api_is_told_the_fit(source, fit, resize):
    told = keys(replace(source.spec, input=replace(source.spec.input, fit=fit)))
    assert told["model_info resize_type"] == resize


def test_the_standards_own_marks_are_true_of_what_is_fed(exported, floats):
    for path, dimensions, name in (
        (exported, ["DATA_BATCH", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL"], "NominalRange_0_255"),
        (floats, ["DATA_BATCH", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE"], "Normalized_0_1"),
    ):
        image = onnx.load(path).graph.input[0].type
        assert image.denotation == "IMAGE"
        assert [d.denotation for d in image.tensor_type.shape.dim] == dimensions
        assert props(path)["Image.NominalPixelRange"] == name
        assert props(path)["Image.BitmapPixelFormat"] == "Rgb8"


def test_a_viewer_shows_what_a_person_needs(exported):
    text = onnx.load(exported).doc_string
    for words in ("a, b, c", "uint8 [batch, 48, 40, 3]", "RGB", "area", "not a medical device"):
        assert words in text


def test_labels_and_a_triton_repository_are_written_from_the_contract(source, exported, tmp_path):
    write_sidecars(source, exported, Sidecars(triton=tmp_path / "repository"))
    folder = tmp_path / "repository/model"
    assert (folder / "labels.txt").read_text() == "a\nb\nc\n"
    assert (folder / "1/model.onnx").read_bytes() == exported.read_bytes()
    config = (folder / "config.pbtxt").read_text()
    for words in ('name: "model"', '"image", data_type: TYPE_UINT8, dims: [48, 40, 3]', "dims: [3], label_filename"):
        assert words in config
    assert "dynamic_batching" in config


def test_a_fixed_batch_is_told_to_triton(source, floats, tmp_path):
    write_sidecars(source, floats, Sidecars(triton=tmp_path))
    config = (tmp_path / "model.float/config.pbtxt").read_text()
    assert "max_batch_size: 1\n" in config
    assert "dynamic_batching" not in config
    assert '"pixel_values", data_type: TYPE_FP32, dims: [3, 48, 40]' in config


def test_hugging_faces_files_leave_mean_and_std_to_the_graph(source, exported, tmp_path):
    write_sidecars(source, exported, Sidecars(hf=tmp_path / "hf"))
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 48, "width": 40}
    assert (processor["do_rescale"], processor["do_normalize"], processor["resample"]) == (True, False, 4)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert medinfer.load(tmp_path / "hf/onnx/model.onnx", "cpu").spec.graph.input == "float"


def test_what_hugging_face_cannot_say_is_refused(source):
    for change in ({"fit": PadFit(pad=Pad())}, {"color": "gray", "mean": (0.5,), "std": (0.5,)}):
        with pytest.raises(UsageError, match="--hf"):
            check_hf(replace(source.spec, input=replace(source.spec.input, **change)))


def test_nothing_that_exists_is_overwritten_unasked(tmp_path, monkeypatch):
    from medexport.cli import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt.labels.txt").write_text("mine")
    result = CliRunner().invoke(cli, ["onnx", "ckpt.pt", "--labels"])
    assert isinstance(result.exception, UsageError)
    assert "ckpt.labels.txt: exists already" in str(result.exception)
    assert (tmp_path / "ckpt.labels.txt").read_text() == "mine"
