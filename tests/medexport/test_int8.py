"""int8: what is rounded, and that nothing is written that is not worth it."""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnxruntime import quantization
from torch import nn

import medexport
import medinfer
from medexport import quantize, trial, worth
from medexport.build import build_file
from medexport.cli import cli
from medexport.graph import to_onnx
from medexport.layers import layers
from medexport.precision import lowered
from medexport.reference import images_of
from medexport.source import Source
from medexport.splits import balanced, tensors_of
from medexport.verify import judge, stored_precision
from medexport.worth import Speed, compare_speed
from medinfer.errors import ModelError, UsageError, VariantError
from medinfer.spec import Graph, ModelSpec
from medtrain.network import Classifier

INT8 = Graph(precision="int8")


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
        levels = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[0])
        assert np.abs(onnx.numpy_helper.to_array(levels).astype(int)).max() <= 64  # 255 x 64 x 2 still fits 16 bits
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


def test_the_file_says_which_training_images_it_was_calibrated_on(run, rows, int8):
    training = balanced(rows["train"], ("a", "b", "c"))
    made = medinfer.load(int8, "cpu").spec.provenance.quantization
    digest = hashlib.sha256()
    for row in training:
        digest.update(hashlib.sha256((run[1] / row["path"]).read_bytes()).digest())
    assert made.images_sha256 == digest.hexdigest()
    assert made.images == len(training)
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


@pytest.mark.slow
def test_correcting_the_biases_brings_the_means_back(run, images, monkeypatch, minmax):
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
        return trial.session_of(opened).run(None, {"image": tensors})[0].mean(axis=(0, 2, 3))

    wanted = error(plain)
    corrected = np.abs(error(quantize.quantise(plain, spec, source, images)[0]) - wanted).mean()
    monkeypatch.setattr(quantize, "correct_biases", lambda *_: None)
    uncorrected = np.abs(error(quantize.quantise(plain, spec, source, images)[0]) - wanted).mean()
    assert corrected < 0.7 * uncorrected


class Residual(nn.Module):
    """A pooling after the first layer that two layers read, as in a ResNet, and one after a layer in int8."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        pooled = torch.max_pool2d(torch.relu(self.first(x)), 2)
        after = torch.relu(pooled + self.second(pooled))
        after = self.third(torch.max_pool2d(after, 2))
        return self.last(torch.relu(after).mean((2, 3)))


def taught(network, spec):
    return Source(Classifier(network, spec.input.mean, spec.input.std).eval(), spec)


def test_a_pooling_after_the_float_layer_is_computed_in_float(run, images, tmp_path, minmax):
    """onnxruntime pools integers that come from a float layer fifteen times slower, and moves the rounding there."""
    import onnxruntime

    torch.manual_seed(0)
    source = taught(Residual(), run[0].spec)
    spec = replace(source.spec, graph=INT8)
    model, _ = quantize.quantise(to_onnx(source.classifier, spec), spec, source, images)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    rounded = {node.output[0] for node in nodes if node.op_type in ("QuantizeLinear", "QLinearConv", "QLinearAdd")}
    rounded |= {node.output[0] for node in nodes if node.op_type == "Transpose" and node.input[0] in rounded}
    pools = [node for node in nodes if "MaxPool" in node.op_type]
    assert [node.input[0] in rounded for node in pools] == [False, True]
    kinds = [node.op_type for node in nodes]
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("QLinearAdd") == 1


def test_a_network_of_two_layers_is_refused(run, images):
    source = taught(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 46 * 38, 3)), run[0].spec)
    spec = replace(source.spec, graph=INT8)
    with pytest.raises(UsageError, match="2 layers, and the first and the last stay in float"):
        quantize.quantise(to_onnx(source.classifier, spec), spec, source, images)


@pytest.mark.slow
def test_a_calibration_that_fails_leaves_the_others(run, images, monkeypatch):
    right = quantization.create_calibrator

    def only_entropy(*words, calibrate_method, **more):
        if calibrate_method != quantization.CalibrationMethod.Entropy:
            raise KeyError("a tensor")
        return right(*words, calibrate_method=calibrate_method, **more)

    source = run[0]
    spec = replace(source.spec, graph=INT8)
    model = to_onnx(source.classifier, spec)
    monkeypatch.setattr(quantization, "create_calibrator", only_entropy)
    assert quantize.quantise(model, spec, source, images)[1].calibrator == "entropy"
    monkeypatch.setattr(quantize, "get_args", lambda _: ("minmax",))
    with pytest.raises(ModelError, match="cannot quantise this network"):
        quantize.quantise(model, spec, source, images)


def test_a_network_that_cannot_be_quantised_is_told_as_such(run, images, monkeypatch, minmax):
    told = []

    def fails(*_):
        raise ValueError("no such tensor")

    monkeypatch.setattr(quantize, "_quantised", fails)
    spec = replace(run[0].spec, graph=INT8)
    with pytest.raises(ModelError, match="cannot quantise this network"):
        quantize.quantise(to_onnx(run[0].classifier, spec), spec, run[0], replace(images, tell=told.append))
    assert told == ["int8, minmax: onnxruntime cannot: ValueError: no such tensor"]


@pytest.mark.parametrize(("needed", "tried"), [(1, [1]), (3, [1, 3]), pytest.param(9, [1, 3], marks=pytest.mark.slow)])
def test_as_many_first_layers_stay_in_float_as_keep_the_labels(run, images, monkeypatch, minmax, needed, tried):
    """Of 14 layers a quarter at most."""
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(13)], nn.Flatten(), nn.Linear(3 * 22 * 14, 3))
    source = taught(network, run[0].spec)
    right, told = quantize.logits_of, []

    def other_labels_with_fewer(model, *words):
        in_int8 = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1].endswith("_Output")]
        return np.roll(right(model, *words), 1 if 13 - len(in_int8) < needed else 0, axis=1)

    monkeypatch.setattr(quantize, "logits_of", other_labels_with_fewer)
    spec = replace(source.spec, graph=INT8)
    model = to_onnx(source.classifier, spec)
    _, made = quantize.quantise(model, spec, source, replace(images, tell=told.append))
    names = [node.name for node in layers(model)]
    assert [int(line.split(", ")[2].split()[0]) - 1 for line in told] == tried
    if needed in tried:
        assert made.in_float == (*names[:needed], names[-1])


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_large_head_does_not_hide_what_the_network_computes_in(run, images, tmp_path, minmax, kind):
    """The last layer stays in float, and may have most of the weights."""
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(3)], nn.Flatten(), nn.Linear(3 * 42 * 34, 3))
    source = taught(network, run[0].spec)
    spec = replace(source.spec, graph=Graph(precision=kind))
    model, _ = lowered(to_onnx(source.classifier, spec), spec, source, images)
    onnx.save(model, tmp_path / "m.onnx")
    assert stored_precision(tmp_path / "m.onnx") == kind


# Worth shipping


def test_what_is_no_faster_is_refused_with_every_figure_and_no_file(run, images, tmp_path, monkeypatch, minmax):
    slower = Speed(ratio=1.05, low=0.98, plain_ms=10.0, quantised_ms=9.5)
    monkeypatch.setattr(worth, "compare_speed", lambda *_: slower)
    with pytest.raises(
        VariantError, match=r"1\.05 times as fast.*at least 0\.98.*MB.*labels kept.*macro AUC"
    ) as caught:
        build_file(run[0], tmp_path / "model.onnx", graph=INT8, images=images)
    assert caught.value.exit_code == 9
    assert list(tmp_path.iterdir()) == []


def coarse(model):
    """Round int8 weights to a few levels, so that labels change."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array((values // 32 * 32).astype(np.int8), tensor.name))
    return model


def test_what_changes_labels_is_refused_with_every_figure_and_no_file(run, images, tmp_path, monkeypatch, fast, minmax):
    right = quantize._quantised
    monkeypatch.setattr(quantize, "_quantised", lambda *words: coarse(right(*words)))
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


def test_from_python_the_splits_are_named(run, tmp_path, fast, minmax):
    source, data, table = run
    words = {"data": data, "splits": table}
    spec = medexport.export(source.classifier.network, source.spec, tmp_path / "m.onnx", graph=INT8, **words)
    assert spec.agreement.precision == "int8"
    assert spec.agreement.differences.count == 135
    with pytest.raises(UsageError, match="splits goes with data"):
        medexport.export(source.classifier.network, source.spec, tmp_path / "n.onnx", **words)


# From the command line


def export(*words):
    return CliRunner().invoke(cli, ["onnx", "ckpt.pt", *map(str, words)])


def test_int8_from_the_command_line_takes_the_splits_beside_the_checkpoint(run, checkpoint, fast, minmax):
    done = export("--precision", "int8", "--data", run[1])
    assert done.exit_code == 0, done.output
    assert re.search(r"13[45] of 135 labels kept", done.stderr)
    assert "2.00 times as fast" in done.stderr
    assert (checkpoint / "ckpt.int8.onnx").exists()
    assert done.stdout == ""


def test_an_int8_file_is_verified_on_the_test_images_of_its_run(run, checkpoint, int8):
    done = CliRunner().invoke(cli, ["verify", str(int8), "ckpt.pt", str(run[1])])
    assert done.exit_code == 0, done.output
    assert re.search(r"13[45] of 135 labels kept", done.stderr)
    done = CliRunner().invoke(cli, ["verify", str(int8), "ckpt.pt"])
    assert done.exit_code == 2
    assert "trained on (--data)" in done.stderr


def test_a_file_that_is_not_worth_it_ends_with_exit_code_9(run, checkpoint, monkeypatch, minmax):
    slower = Speed(ratio=0.8, low=0.7, plain_ms=4.0, quantised_ms=5.0)
    monkeypatch.setattr(worth, "compare_speed", lambda *_: slower)
    done = export("--precision", "int8", "--data", run[1])
    assert isinstance(done.exception, VariantError)
    assert not (checkpoint / "ckpt.int8.onnx").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "int8"], "trained on (--data)"),
        (["--splits", "splits.csv"], "goes with --precision int8"),
        (["--precision", "fp16", "--hf", "hf"], "--hf holds an fp32 model"),
    ],
)
def test_options_that_do_not_go_together_are_refused(checkpoint, words, told):
    done = export(*words)
    assert done.exit_code == 2
    assert told in done.stderr


def test_the_score_of_unlike_images_is_computed_in_float(remembering, images, tmp_path, fast, minmax):
    spec = build_file(remembering, tmp_path / "m.onnx", graph=INT8, images=images)
    assert spec.agreement.max_ood_score < 0.05
    assert spec.golden[0].own_ood_score is not None
    assert medinfer.verify(medinfer.load(tmp_path / "m.onnx", "cpu")).passes
    model = onnx.load(tmp_path / "m.onnx")
    made = {node.output[0]: node.op_type for node in model.graph.node}
    branch = [node for node in model.graph.node if node.op_type in ("MatMul", "Sub", "Div", "ReduceSum")]
    assert branch
    assert "DequantizeLinear" not in {made.get(name) for node in branch for name in node.input}
