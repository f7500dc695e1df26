"""What other tools read of a file and beside it."""

import ast
import json
from dataclasses import replace

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import medinfer
from medexport.build import build_all, build_file
from medexport.cli import cli
from medexport.metadata import keys
from medexport.mobile import write_ort
from medexport.reference import images_of
from medexport.sidecars import Sidecars
from medexport.size import network_size
from medexport.stamp import stamp
from medinfer.cli import cli as medinfer_cli
from medinfer.errors import DisagreementError, ModelError, UsageError
from medinfer.spec import Crop, CropFit, Graph, InputSpec, Pad, PadFit
from medtrain.network import build_network, network_config
from medtrain.recipe import Network


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
        (CropFit(crop=Crop(resize=64)), None),  # its own crop has no margin
        (PadFit(pad=Pad(value=7)), "fit_to_window_letterbox"),
        (PadFit(pad=Pad(anchor="top_left")), "fit_to_window"),
    ],
)
def test_model_api_is_told_the_fit(source, fit, resize):
    told = keys(replace(source.spec, input=replace(source.spec.input, fit=fit)))
    assert told.get("model_info resize_type") == resize
    square = InputSpec(height=48, width=48, fit=CropFit(crop=Crop(resize=48)), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert keys(replace(source.spec, input=square))["model_info resize_type"] == "crop"


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


def write(source, path, *, graph=None, **wanted):
    build_all(source, path, Sidecars(**wanted), graph=graph or Graph(), images=images_of(None))


@pytest.mark.parametrize("graph", [Graph(), Graph(batch=2, precision="fp16")], ids=str)
def test_an_ort_file_is_the_same_model_with_its_contract(source, tmp_path, picture, graph):
    write(source, tmp_path / "model.onnx", graph=graph, ort=True)
    assert (tmp_path / "model.ort").read_bytes()[4:8] == b"ORTM"
    plain, ort = (medinfer.load(tmp_path / name, "cpu") for name in ("model.onnx", "model.ort"))
    assert ort.spec == plain.spec
    assert medinfer.verify(ort).passes
    images = [picture(60, 50, seed=i) for i in range(5)]
    for one, other in zip(plain.predict_batch(images), ort.predict_batch(images), strict=True):
        assert np.abs(one.scores - other.scores).max() < 1e-5


def test_an_ort_file_that_answers_otherwise_is_not_written(exported, tmp_path):
    spec = medinfer.load(exported, "cpu").spec
    golden = tuple(replace(sample, logits=tuple(logit + 1 for logit in sample.logits)) for sample in spec.golden)
    (tmp_path / "draft.onnx").write_bytes(stamp(onnx.load(exported), replace(spec, golden=golden)))
    with pytest.raises(DisagreementError, match=r"\.ort file does not answer"):
        write_ort(tmp_path / "draft.onnx", tmp_path / "m.ort")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"cannot write it as \.ort"):
        write_ort(tmp_path / "bad.onnx", tmp_path / "m.ort")
    assert not (tmp_path / "m.ort").exists()


def test_the_contract_tells_how_large_the_network_is(exported, source):
    size = medinfer.load(exported, "cpu").spec.size
    assert size.parameters == sum(one.numel() for one in source.classifier.parameters())
    told = CliRunner().invoke(medinfer_cli, ["info", str(exported)])
    assert f"file: {exported}, {exported.stat().st_size / 1e6:.1f} MB" in told.output
    assert f"parameters: {size.parameters}" in told.output
    assert f"macs: {size.macs}" in told.output


# As torchvision lists them.
@pytest.mark.parametrize(
    ("arch", "parameters", "macs"),
    [("resnet18", 11.69, 1.814), ("mobilenet_v2", 3.50, 0.301), ("vit_b_16", 86.57, 17.56)],
)
def test_parameters_and_macs_are_those_that_everybody_tells(arch, parameters, macs):
    size = InputSpec(height=224, width=224, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = network_size(build_network(network_config(Network(arch=arch), size, classes=1000)), size)
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    assert found.macs / 1e9 == pytest.approx(macs, rel=0.005)


def test_labels_and_a_triton_repository_are_written_from_the_contract(source, tmp_path):
    write(source, tmp_path / "model.onnx", labels=True, triton=tmp_path / "repository")
    folder = tmp_path / "repository/model"
    assert (folder / "labels.txt").read_text() == "a\nb\nc\n"
    assert (tmp_path / "model.labels.txt").read_text() == "a\nb\nc\n"
    assert (folder / "1/model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    config = (folder / "config.pbtxt").read_text()
    for words in ('name: "model"', '"image", data_type: TYPE_UINT8, dims: [48, 40, 3]', "dims: [3], label_filename"):
        assert words in config
    assert "max_batch_size: 32" in config
    assert "dynamic_batching" in config


def test_a_fixed_batch_is_told_to_triton_as_a_dimension(source, tmp_path):
    write(source, tmp_path / "m.float.onnx", graph=Graph(input="float", batch=2), triton=tmp_path)
    config = (tmp_path / "m.float/config.pbtxt").read_text()
    assert "max_batch_size: 0\n" in config
    assert "dynamic_batching" not in config
    assert '"pixel_values", data_type: TYPE_FP32, dims: [2, 3, 48, 40]' in config
    assert "dims: [2, 3], label_filename" in config


@pytest.mark.parametrize("fit", ["stretch", CropFit(crop=Crop(resize=64))])
def test_hugging_faces_files_leave_mean_and_std_to_the_graph(make_source, spec, tmp_path, fit):
    source = make_source(spec=replace(spec, input=replace(spec.input, fit=fit)))
    write(source, tmp_path / "m.onnx", hf=tmp_path / "hf")
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    size = {"height": 48, "width": 40}
    if fit == "stretch":
        assert (processor["image_processor_type"], processor["size"]) == ("ViTImageProcessor", size)
    else:
        assert (processor["image_processor_type"], processor["size"]) == ("CLIPImageProcessor", {"shortest_edge": 64})
        assert processor["crop_size"] == size
    assert (processor["do_rescale"], processor["do_normalize"], processor["resample"]) == (True, False, 4)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert medinfer.load(tmp_path / "hf/onnx/model.onnx", "cpu").spec.graph.input == "float"


def test_what_cannot_be_written_is_refused_before_any_work(source, tmp_path):
    (tmp_path / "file").write_text("x")
    for change in ({"fit": PadFit(pad=Pad())}, {"color": "gray", "mean": (0.5,), "std": (0.5,)}):
        spec = replace(source.spec, input=replace(source.spec.input, **change))
        with pytest.raises(UsageError, match="--hf"):
            Sidecars(hf=tmp_path / "hf").check(spec, tmp_path / "m.onnx")
    for wanted in ({"hf": tmp_path / "file"}, {"triton": tmp_path / "file"}):
        with pytest.raises(UsageError, match="is a file"):
            Sidecars(**wanted).check(source.spec, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no name of a model"):
        Sidecars(triton=tmp_path).check(source.spec, tmp_path / 'a "b".onnx')


@pytest.mark.parametrize(
    ("words", "existing"),
    [
        (["--labels"], "ckpt.labels.txt"),
        (["--triton", "r"], "r/ckpt/config.pbtxt"),
        (["--triton", "r"], "r/ckpt/1/model.onnx"),
        (["--hf", "h"], "h/config.json"),
        (["--hf", "h"], "h/onnx/model.onnx"),
        ([], "ckpt.onnx"),
    ],
)
def test_nothing_that_exists_is_overwritten_unasked(tmp_path, monkeypatch, words, existing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / existing).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / existing).write_text("mine")
    result = CliRunner().invoke(cli, ["onnx", "ckpt.pt", *words])
    assert isinstance(result.exception, UsageError)
    assert f"{existing}: exists already" in str(result.exception)
    assert (tmp_path / existing).read_text() == "mine"


def test_what_is_exported_is_not_overwritten_and_the_folder_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt.pt").write_text("mine")
    for words, told in (
        (["-o", "ckpt.pt", "--overwrite"], "is what is exported"),
        (["-o", "nowhere/x.onnx"], "nowhere: no such folder"),
    ):
        with pytest.raises((click.UsageError, UsageError), match=told) as caught:
            cli(["onnx", "ckpt.pt", *words], standalone_mode=False)
        assert caught.value.exit_code == 2
    assert (tmp_path / "ckpt.pt").read_text() == "mine"
