"""int8 and fp16: what is rounded, what it is calibrated on, and that nothing is written that is not worth it."""

from __future__ import annotations

import copy
import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import medinfer
from medexport import quantize, worth
from medexport.build import build_file
from medexport.cli import cli
from medexport.graph import to_onnx
from medexport.precision import around, layers, to_fp16
from medexport.reference import images_of
from medexport.source import Source
from medexport.splits import balanced, images_of_splits, tensors_of
from medexport.verify import judge, stored_precision
from medexport.worth import Speed, compare_speed
from medinfer.errors import DisagreementError, ModelError, UsageError, VariantError
from medinfer.labels import read_rows
from medinfer.spec import Abstention, Conformal, Graph, ModelSpec, Outliers
from medtrain.dataset import load_dataset, write_splits
from medtrain.network import network_config
from medtrain.outliers import learn_outliers
from medtrain.recipe import Data, Network

INT8 = Graph(precision="int8")
FASTER = Speed(ratio=2.0, low=1.9, plain_ms=10.0, quantised_ms=5.0)


@pytest.fixture(scope="module")
def run(source, picture, tmp_path_factory):
    """A training run that might have been: (the source with the hash of its data, the data folder, splits.csv).

    The labels are the network's own answers, so that its AUC is high.
    """
    folder = tmp_path_factory.mktemp("run")
    pictures = [picture(48, 40, seed=i) for i in range(300)]
    logits = source.logits(np.stack(pictures))
    # Made to like all classes alike.
    classifier = copy.deepcopy(source.classifier)
    with torch.no_grad():
        classifier.head[1].bias -= torch.from_numpy(np.median(logits, axis=0))
    answers = (logits - np.median(logits, axis=0)).argmax(axis=1)
    for i, (pixels, answer) in enumerate(zip(pictures, answers, strict=True)):
        path = folder / "data" / source.spec.classes[answer] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels[..., ::-1])
    dataset = load_dataset(folder / "data", Data(validation=0.2, test=0.45), source.spec.input, 0)
    write_splits(dataset, folder / "splits.csv")
    provenance = replace(source.spec.provenance, data_sha256=dataset.sha256)
    return (
        Source(classifier, replace(source.spec, provenance=provenance)),
        folder / "data",
        folder / "splits.csv",
    )


@pytest.fixture(scope="module")
def images(run):
    source, data, table = run
    return images_of_splits(table, data, source.spec)


@pytest.fixture(scope="module")
def int8(run, images, tmp_path_factory):
    """Path of an int8 file; what a clock says of it is not asked. Not to be changed."""
    path = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth, "compare_speed", lambda *_: FASTER)
        build_file(run[0], path, graph=INT8, images=images)
    return path


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(worth, "compare_speed", lambda *_: FASTER)


def splits(table):
    return {
        split: [row for _, row in read_rows(table, ("split",)) if row["split"] == split]
        for split in ("train", "validation", "test")
    }


# int8


def test_an_int8_file_keeps_labels_and_auc_and_says_so(int8, images):
    agreement = medinfer.load(int8, "cpu").spec.agreement
    assert agreement.precision == "int8"
    assert agreement.differences.count == len(images.test) >= 100
    assert agreement.differences.label_flips <= 0.01 * agreement.differences.count
    assert agreement.differences.tolerance is None
    assert agreement.macro_auc.checkpoint - agreement.macro_auc.file < 0.01
    assert agreement.macro_auc_loss_interval is None or agreement.macro_auc_loss_interval[1] < 0.01


def test_the_network_is_in_int8_and_its_ends_and_surroundings_in_float(int8):
    model = onnx.load(int8)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = [made.get(node.input[1]) for node in convolutions]
    assert weights[0] is None
    for node in weights[1:]:
        assert node.op_type == "DequantizeLinear"
        assert kinds[node.input[0]] == onnx.TensorProto.INT8
        scales = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        assert len(onnx.numpy_helper.to_array(scales)) > 1  # one for each channel
    gemm = next(node for node in model.graph.node if "logits" in node.output)
    assert kinds[gemm.input[1]] == onnx.TensorProto.FLOAT
    quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {kinds[node.input[2]] for node in quantised} == {onnx.TensorProto.UINT8}
    assert not [node for node in quantised if made[node.input[0]].op_type in ("Softmax", "Gemm", "Cast")]
    assert stored_precision(int8) == "int8"
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8


def test_the_file_says_which_training_images_it_was_calibrated_on(run, int8):
    _, data, table = run
    rows = splits(table)["train"]
    made = medinfer.load(int8, "cpu").spec.provenance.quantization
    digest = hashlib.sha256()
    for row in balanced(rows, ("a", "b", "c")):
        digest.update(hashlib.sha256((data / row["path"]).read_bytes()).digest())
    assert made.images_sha256 == digest.hexdigest()
    assert made.images == len(balanced(rows, ("a", "b", "c")))
    assert len(made.in_float) == 2


def test_two_int8_exports_are_the_same_bytes(run, images, int8, tmp_path, fast):
    build_file(run[0], tmp_path / "again.onnx", graph=INT8, images=images)
    assert (tmp_path / "again.onnx").read_bytes() == int8.read_bytes()


def test_an_int8_file_runs_anywhere_a_file_runs_and_verifies_itself(run, int8, tmp_path):
    model = medinfer.load(int8, "cpu")
    report = medinfer.verify(model)
    assert report.passes
    assert report.comparison.max_difference == 0
    assert 0 < report.comparison.tolerance < 1
    done = CliRunner().invoke(medinfer_cli(), ["verify", str(int8)])
    assert done.exit_code == 0
    agreement = judge(run[0], model, images_of(run[1], None))
    assert agreement.differences.count == 300


def medinfer_cli():
    from medinfer.cli import cli as command

    return command


def test_an_int8_file_that_answers_otherwise_on_this_machine_is_told(int8, tmp_path):
    model = medinfer.load(int8, "cpu")
    told = model.spec.to_json()
    told["golden"][0]["own_logits"][0] += 2.0
    model.spec = ModelSpec.from_json(told)
    assert not medinfer.verify(model).passes
    del told["golden"][0]["own_logits"]
    model.spec = ModelSpec.from_json(told)
    with pytest.raises(ModelError, match="lack what an int8 file itself answered"):
        medinfer.verify(model)


def test_correcting_the_biases_brings_the_means_back(run, images, monkeypatch):
    """What rounding the weights adds to each channel on average, with and without."""
    source = run[0]
    spec = replace(source.spec, graph=INT8)
    plain = to_onnx(source.classifier, spec)
    tensors = tensors_of(images.calibration, spec.input)
    last = [node for node in layers(plain) if node.op_type == "Conv"][-1].output[0]

    def error(model):
        opened = copy.deepcopy(model)
        del opened.graph.output[:]
        opened.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
        return quantize._session(opened).run(None, {"image": tensors})[0].mean(axis=(0, 2, 3))

    wanted = error(plain)
    corrected = np.abs(error(quantize.quantise(plain, spec, source, images)[0]) - wanted).mean()
    monkeypatch.setattr(quantize, "correct_biases", lambda *_: None)
    uncorrected = np.abs(error(quantize.quantise(plain, spec, source, images)[0]) - wanted).mean()
    assert corrected < 0.7 * uncorrected


# Worth shipping


def test_what_is_no_faster_is_refused_with_every_figure_and_no_file(run, images, tmp_path, monkeypatch):
    slower = Speed(ratio=1.05, low=0.98, plain_ms=10.0, quantised_ms=9.5)
    monkeypatch.setattr(worth, "compare_speed", lambda *_: slower)
    with pytest.raises(
        VariantError, match=r"1\.05 times as fast.*at least 0\.98.*MB.*labels kept.*macro AUC"
    ) as caught:
        build_file(run[0], tmp_path / "model.onnx", graph=INT8, images=images)
    assert caught.value.exit_code == 9
    assert list(tmp_path.iterdir()) == []


def test_what_changes_labels_is_refused_with_every_figure_and_no_file(run, images, tmp_path, monkeypatch, fast):
    right = quantize._static

    def spoilt(*words):
        model = right(*words)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array((values // 32 * 32).astype(np.int8), tensor.name))
        return model

    monkeypatch.setattr(quantize, "_static", spoilt)
    monkeypatch.setattr(quantize, "correct_biases", lambda *_: None)
    with pytest.raises(VariantError, match=r"labels kept \(\d.*2\.00 times as fast"):
        build_file(run[0], tmp_path / "model.onnx", graph=INT8, images=images)
    assert list(tmp_path.iterdir()) == []


class Ticking:
    """A clock that each model advances as it runs."""

    def __init__(self, *milliseconds):
        self.now, self.runs, self.costs = 0.0, [], milliseconds

    def model(self, side):
        def predict(image):
            self.runs.append((side, image))
            self.now += self.costs[side](len(self.runs)) / 1000

        return predict


def test_speeds_are_compared_image_by_image_in_turns():
    clock = Ticking(lambda _: 12.0, lambda _: 5.0)
    found = compare_speed(clock.model(0), clock.model(1), ["x", "y"], lambda: clock.now)
    assert (found.ratio, found.low) == pytest.approx((2.4, 2.4))
    assert (found.plain_ms, found.quantised_ms) == pytest.approx((12, 5))
    pairs = list(zip(clock.runs[::2], clock.runs[1::2], strict=True))
    assert all(first[1] == second[1] and first[0] != second[0] for first, second in pairs)
    assert {first[0] for first, _ in pairs} == {0, 1}


def test_a_disturbance_does_not_make_a_file_faster():
    """Every tenth run of the fp32 file falls into something else's work: the median does not see it."""
    clock = Ticking(lambda n: 500.0 if n % 10 < 2 else 10.0, lambda _: 10.0)
    found = compare_speed(clock.model(0), clock.model(1), ["x"], lambda: clock.now)
    assert found.ratio == pytest.approx(1)
    assert found.low == pytest.approx(1)


def test_the_lower_bound_is_that_of_the_sign_test():
    # Of 61 values the 23rd is the largest under which fewer than 2.5 % of such samples have their median.
    assert worth._lowest_rank(61) == 22
    assert worth._lowest_rank(9) == 1  # (Conover: ranks 2 and 8 of 9, 96.1 %)
    assert worth._lowest_rank(3) == 0


# The images


def test_no_image_is_calibrated_on_that_is_judged_on(run, images):
    rows = splits(run[2])
    for name, found in (("train", images.calibration), ("validation", images.validation), ("test", images.test)):
        assert {one.path for one in found} <= {str(run[1] / row["path"]) for row in rows[name]}
    assert [str(one.path) for one in images.test] == images.images
    assert len(images.test) == len(rows["test"])


def test_as_many_images_of_each_class_are_calibrated_on():
    rows = [
        {"label": name, "path": str(i)} for name, count in (("a", 500), ("b", 100), ("c", 20)) for i in range(count)
    ]
    chosen = balanced(rows, ("a", "b", "c"))
    assert [sum(row["label"] == name for row in chosen) for name in "abc"] == [85, 85, 20]
    spread = [int(row["path"]) for row in chosen if row["label"] == "a"]
    assert spread[0] == 0
    assert spread[-1] > 490


def changed(run, tmp_path, change):
    """Return a copy of splits.csv with its rows changed."""
    with run[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "splits.csv"


def move_a_test_image_into_train(rows):
    next(row for row in rows if row["split"] == "test")["split"] = "train"


def drop_a_row(rows):
    del rows[3]


def change_a_label(rows):
    rows[0]["label"] = next(row["label"] for row in rows if row["label"] != rows[0]["label"])


def change_a_hash(rows):
    rows[0]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    "change", [move_a_test_image_into_train, drop_a_row, change_a_label, change_a_hash], ids=lambda one: one.__name__
)
def test_splits_that_are_not_those_of_the_training_are_refused(run, tmp_path, change):
    with pytest.raises(UsageError, match="not the images and splits that this checkpoint was trained on"):
        images_of_splits(changed(run, tmp_path, change), run[1], run[0].spec)


def test_an_image_that_was_changed_or_is_missing_is_refused(run, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(run[1], data)
    first = data / splits(run[2])["test"][0]["path"]
    first.write_bytes(first.read_bytes() + b" ")
    with pytest.raises(UsageError, match=f"{first.name}: not the image that was trained with"):
        images_of_splits(run[2], data, run[0].spec)
    first.unlink()
    with pytest.raises(UsageError, match=f"{first.name}: No such file"):
        images_of_splits(run[2], data, run[0].spec)


def test_too_few_test_images_are_refused(run, tmp_path):
    def shrink(rows):
        rows[:] = [row for row in rows if row["split"] != "test"] + [row for row in rows if row["split"] == "test"][:49]

    spec = replace(run[0].spec, provenance=replace(run[0].spec.provenance, data_sha256=None))
    with pytest.raises(UsageError, match="49 test images; it takes 50"):
        images_of_splits(changed(run, tmp_path, shrink), run[1], spec)


def test_int8_without_the_splits_is_refused_before_any_work(run, tmp_path):
    for images in (None, images_of(run[1])):
        with pytest.raises(UsageError, match="calibrated on training images"):
            build_file(run[0], tmp_path / "model.onnx", graph=INT8, images=images)


def test_an_int8_file_is_not_judged_on_drawn_images(run, int8):
    with pytest.raises(UsageError, match="real images"):
        judge(run[0], medinfer.load(int8, "cpu"), images_of(None))


def test_heatmaps_of_int8_are_refused(run, images, tmp_path):
    with pytest.raises(UsageError, match="heatmaps"):
        build_file(run[0], tmp_path / "m.onnx", graph=replace(INT8, extra_outputs=("heatmap",)), images=images)


# From the command line


@pytest.fixture
def checkpoint(run, tmp_path, monkeypatch):
    """A folder with ckpt.pt and splits.csv, as `medtrain fit` leaves it; the working directory."""
    (tmp_path / "ckpt.pt").write_bytes(b"")
    (tmp_path / "splits.csv").write_bytes(run[2].read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medexport.source.read_checkpoint", lambda path: run[0])
    return tmp_path


def export(*words):
    return CliRunner().invoke(cli, ["onnx", "ckpt.pt", *map(str, words)])


def test_int8_from_the_command_line_takes_the_splits_beside_the_checkpoint(run, checkpoint, fast):
    done = export("--precision", "int8", "--data", run[1])
    assert done.exit_code == 0, done.output
    assert "135 of 135 labels kept" in done.stderr
    assert "2.00 times as fast" in done.stderr
    assert (checkpoint / "ckpt.int8.onnx").exists()
    assert done.stdout == ""


def test_a_file_that_is_not_worth_it_ends_with_exit_code_9(run, checkpoint, monkeypatch):
    slower = Speed(ratio=0.8, low=0.7, plain_ms=4.0, quantised_ms=5.0)
    monkeypatch.setattr(worth, "compare_speed", lambda *_: slower)
    done = export("--precision", "int8", "--data", run[1])
    assert isinstance(done.exception, VariantError)
    assert not (checkpoint / "ckpt.int8.onnx").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "int8"], "takes --data"),
        (["--splits", "splits.csv"], "goes with --precision int8"),
        (["--precision", "fp16", "--hf", "hf"], "--hf holds an fp32 model"),
    ],
)
def test_options_that_do_not_go_together_are_refused(checkpoint, words, told):
    done = export(*words)
    assert done.exit_code == 2
    assert told in done.stderr


# fp16


@pytest.fixture(scope="module")
def fp16(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("fp16") / "model.fp16.onnx"
    build_file(source, path, graph=Graph(precision="fp16"))
    return path


def test_an_fp16_file_agrees_within_its_tolerance_and_is_half_the_size(source, exported, fp16):
    agreement = medinfer.load(fp16, "cpu").spec.agreement
    assert agreement.precision == "fp16"
    assert agreement.differences.tolerance == 0.02
    assert 1e-4 < agreement.differences.max_logit < 0.02
    sizes = [sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer) for path in (fp16, exported)]
    assert sizes[0] < 0.55 * sizes[1]
    assert medinfer.verify(medinfer.load(fp16, "cpu")).passes


def test_an_fp16_file_takes_and_gives_what_the_fp32_file_does(exported, fp16):
    import onnxruntime

    def ports(path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]

    assert ports(fp16) == ports(exported)


def test_only_the_network_is_in_fp16(fp16):
    model = onnx.load(fp16)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weighted = layers(model)
    assert {kinds[node.input[1]] for node in weighted[:-1]} == {onnx.TensorProto.FLOAT16}
    assert kinds[weighted[-1].input[1]] == onnx.TensorProto.FLOAT
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    outside = [node for node in model.graph.node if node.op_type in ("Mul", "Add") and node.name in around(model)]
    assert outside
    assert {types[node.output[0]] for node in outside} == {onnx.TensorProto.FLOAT}
    # One cast into fp16, one out of it, and that of the pixels: nothing between two nodes in fp32 is rounded.
    assert [node.op_type for node in model.graph.node].count("Cast") == 3


@pytest.mark.parametrize("graph", [Graph(input="float"), Graph(batch=2), Graph(input="image", batch=1)], ids=str)
def test_fp16_goes_with_every_input(make_source, spec, tmp_path, graph):
    linear = make_source(spec=replace(spec, input=replace(spec.input, interpolation="linear")))
    agreement = build_file(linear, tmp_path / "m.onnx", graph=replace(graph, precision="fp16")).agreement
    assert agreement.precision == "fp16"


def test_fp16_from_the_command_line(checkpoint):
    done = export("--precision", "fp16")
    assert done.exit_code == 0, done.output
    assert (checkpoint / "ckpt.fp16.onnx").exists()


def test_an_fp16_file_that_is_too_far_off_is_not_written(make_source, spec, tmp_path):
    source = make_source()
    loud = copy.deepcopy(source.classifier)
    with torch.no_grad():
        loud.head[1].weight.mul_(100)
    with pytest.raises(DisagreementError, match=r"allowed 0\.02"):
        build_file(Source(loud, source.spec), tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert list(tmp_path.iterdir()) == []


# The score of images unlike the training's


@pytest.fixture(scope="module")
def remembering(run):
    source = run[0]
    classifier = copy.deepcopy(source.classifier)
    config = network_config(Network(arch="small_cnn"), source.spec.input, classes=3)
    rows = balanced(splits(run[2])["train"], source.spec.classes)
    tensors = np.stack([cv2.imread(str(run[1] / row["path"]))[..., ::-1] for row in rows])
    learn_outliers(classifier, config, tensors)
    limits = Abstention(
        conformal=Conformal(coverage=0.9, thresholds=(0.3, 0.3, 0.3), images=50),
        outliers=Outliers(threshold=0.05, in_distribution=0.95),
    )
    return Source(classifier, replace(source.spec, abstention=limits))


def test_the_score_of_unlike_images_is_computed_in_float(remembering, images, tmp_path, fast):
    spec = build_file(remembering, tmp_path / "m.onnx", graph=INT8, images=images)
    assert spec.agreement.max_ood_score < 0.05
    assert spec.golden[0].own_ood_score is not None
    assert medinfer.verify(medinfer.load(tmp_path / "m.onnx", "cpu")).passes
    model = onnx.load(tmp_path / "m.onnx")
    made = {node.output[0]: node.op_type for node in model.graph.node}
    branch = [node for node in model.graph.node if node.op_type in ("MatMul", "Sub", "Div", "ReduceSum")]
    assert branch
    assert "DequantizeLinear" not in {made.get(name) for node in branch for name in node.input}


def test_fp16_keeps_the_score_too(remembering, tmp_path):
    spec = build_file(remembering, tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert 0 < spec.agreement.max_ood_score < 0.02


def test_to_fp16_leaves_the_model_as_it_is(source):
    plain = to_onnx(source.classifier, replace(source.spec, graph=Graph()))
    before = plain.SerializeToString(deterministic=True)
    to_fp16(plain)
    assert plain.SerializeToString(deterministic=True) == before


def test_paths_of_images_are_those_of_the_table(images):
    assert Path(images.name(0)).is_file()
    assert images.label(0, ("a", "b", "c")) in (0, 1, 2)
