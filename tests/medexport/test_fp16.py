"""fp16: what is rounded, and how far that may lead."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import medinfer
from medexport import half
from medexport.build import build_file
from medexport.cli import cli
from medexport.graph import to_onnx
from medexport.half import as_rounded, nearest_fp16, to_fp16
from medexport.layers import around, layers
from medexport.reference import images_of
from medexport.source import Source, from_module
from medexport.trial import session_of
from medinfer.errors import DisagreementError
from medinfer.spec import Graph


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
    assert len(weighted) in range(4, 8)
    assert kinds[weighted[0].input[1]] == onnx.TensorProto.FLOAT
    assert {kinds[node.input[1]] for node in weighted[1:-1]} == {onnx.TensorProto.FLOAT16}
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


def export(*words):
    return CliRunner().invoke(cli, ["onnx", "ckpt.pt", *map(str, words)])


def test_fp16_from_the_command_line(checkpoint):
    done = export("--precision", "fp16")
    assert done.exit_code == 0, done.output
    assert (checkpoint / "ckpt.fp16.onnx").exists()


def test_an_fp16_file_that_is_too_far_off_is_not_written(make_source, spec, tmp_path):
    source = make_source()
    loud = copy.deepcopy(source.classifier)
    with torch.no_grad():
        loud.head[1].weight.mul_(100)
    with pytest.raises(DisagreementError, match=r"allowed 0\.02") as caught:
        build_file(Source(loud, source.spec), tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert "--bisect" not in caught.value.hint  # which is refused of fp16
    assert list(tmp_path.iterdir()) == []


def cancelling(spec):
    """A network whose third layer subtracts large numbers that differ by little: rounded before it, they are alike."""
    layers = [nn.Conv2d(3, 3, 1) for _ in range(13)]
    layers[1], layers[2] = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)
    one = torch.eye(3)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight[:, :, 0, 0] = one * (1 + number / 1000) if number not in (1, 2) else 0
            layer.bias.zero_()
        layers[1].weight[:, :, 0, 0] = torch.cat([1001 * one, 1000 * one])
        layers[2].weight[:, :, 0, 0] = torch.cat([one, -one], dim=1)
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(one)
    return from_module(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), spec)


def in_fp32(model):
    """How many of the first layers have weights in fp32."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return [kinds[node.input[1]] for node in layers(model)].index(onnx.TensorProto.FLOAT16)


def test_as_many_first_layers_stay_in_fp32_as_it_takes_and_no_more(source, spec, monkeypatch):
    monkeypatch.setattr(half, "FIRST_IN_FP32", (1, 2, 3))
    for wanted, found in ((1, source), (3, cancelling(spec))):
        model = to_onnx(found.classifier, replace(found.spec, graph=Graph()))
        assert in_fp32(nearest_fp16(model, found.spec, found, images_of(None))) == wanted


def test_where_no_fp16_is_near_enough_nothing_is_written(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(half, "FIRST_IN_FP32", (1, 2))
    source = cancelling(spec)
    with pytest.raises(DisagreementError, match=r"rounded to fp16, .* disagrees .*allowed 0\.02") as caught:
        build_file(source, tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert "export it in fp32" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_what_fp16_holds_are_found_though_the_cpu_computes_in_fp32(spec, tmp_path):
    source = cancelling(spec)
    with torch.no_grad():
        for position, factor in ((8, 1e3), (9, 1e3), (10, 1e-3), (11, 1e-3)):
            source.classifier.network[position].weight.mul_(factor)
    with pytest.raises(DisagreementError, match="rounded to fp16"):
        build_file(source, tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert build_file(source, tmp_path / "m.onnx").agreement.differences.label_flips == 0


def test_every_value_inside_is_rounded_to_fp16(fp16):
    model = as_rounded(onnx.load(fp16))
    inner = [node.output[0] for node in layers(model)[1:-1]]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name.removesuffix("/exact")) for name in inner)
    values = session_of(model).run(None, {"image": np.full((1, 48, 40, 3), 77, np.uint8)})
    assert len(values) >= 2
    for value in values:
        assert value.dtype == np.float32
        assert (value == value.astype(np.float16)).all()


def test_fp16_keeps_the_score_too(remembering, tmp_path):
    spec = build_file(remembering, tmp_path / "m.onnx", graph=Graph(precision="fp16"))
    assert 0 < spec.agreement.max_ood_score < 0.02


def test_to_fp16_leaves_the_model_as_it_is(source):
    plain = to_onnx(source.classifier, replace(source.spec, graph=Graph()))
    before = plain.SerializeToString(deterministic=True)
    to_fp16(plain, 1)
    assert plain.SerializeToString(deterministic=True) == before
