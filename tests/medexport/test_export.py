"""Exports prove themselves: a clean graph, the same bytes again, and no file that disagrees."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import medinfer
from medexport import build
from medexport.build import build_file
from medexport.graph import to_onnx
from medexport.source import Source
from medexport.stamp import stamp
from medexport.verify import images_of, judge
from medinfer.errors import DisagreementError, UsageError
from medinfer.spec import Calibration, Graph, InputSpec, ModelSpec, Provenance
from medtrain.network import Classifier, build_network, network_config
from medtrain.recipe import Network

SPEC = ModelSpec(
    name="tried",
    classes=("a", "b", "c"),
    task="multiclass",
    input=InputSpec(height=48, width=40, interpolation="area", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    provenance=Provenance(recipe="r", data_sha256="0" * 64, created="2026-01-01T00:00:00+00:00", versions={}),
)
SHAPE_ARITHMETIC = {"Shape", "Range", "Gather", "Unsqueeze", "Expand", "Slice", "Concat", "ScatterND", "Where"}


def make_source(arch="small_cnn", spec=SPEC, **fields):
    """A network with real BatchNorm statistics and a logit spread of several units: agreement must mean something."""
    torch.manual_seed(0)
    channels = spec.input.channels
    wanted = Network(arch=arch, dropout=0.5, **fields)
    network = build_network(network_config(wanted, spec.input, classes=len(spec.classes)))
    classifier = Classifier(network, spec.input.mean, spec.input.std)
    noise = torch.randint(0, 256, (16, channels, spec.input.height, spec.input.width), dtype=torch.uint8)
    classifier.train()
    with torch.no_grad():
        for _ in range(5):
            classifier(noise)
        [module for module in network.modules() if isinstance(module, nn.Linear)][-1].weight.mul_(20)
    return Source(classifier.eval(), spec)


@pytest.fixture(scope="module")
def source():
    return make_source()


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    build_file(source, path)
    return path


def test_the_file_agrees_with_its_source_and_says_so(exported):
    spec = medinfer.load(exported, "cpu").spec
    assert spec.agreement is not None
    assert spec.agreement.images == "synthetic"
    assert spec.agreement.batches == (1, 2, 3, 7, 16)
    for found in (spec.agreement.differences, spec.agreement.battery):
        assert found.count >= 10
        assert found.label_flips == 0
        assert found.max_logit <= found.tolerance
    assert spec.agreement.differences.logit_spread > 1


def test_two_exports_are_the_same_bytes(source, exported, tmp_path):
    build_file(source, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported):
    import getpass
    from pathlib import Path

    content = exported.read_bytes()
    for word in (str(Path.home()), getpass.getuser() + "/", "site-packages", ".py", "stack_trace", "/tmp"):
        assert word.encode() not in content


def test_opset_and_ir_version_are_those_that_older_runtimes_read(exported):
    model = onnx.load(exported)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


@pytest.mark.parametrize(
    "network",
    [
        {"arch": "small_cnn"},
        {"arch": "malaria_cnn"},
        {"arch": "resnet18"},
        {"arch": "efficientnet_b0", "pool": "max", "head": "batchnorm-256"},
        {"arch": "efficientnet_lite0"},
    ],
    ids=lambda network: network["arch"],
)
def test_graphs_are_clean_with_a_dynamic_batch(network):
    spec = replace(SPEC, input=replace(SPEC.input, height=64, width=64))
    model = to_onnx(make_source(spec=spec, **network).classifier, spec)
    operators = Counter(node.op_type for node in model.graph.node)
    assert not SHAPE_ARITHMETIC & set(operators)
    # Behind every convolution it is folded; a head's own stands before a linear layer.
    assert operators["BatchNormalization"] == (network.get("head") == "batchnorm-256")
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", 64, 64, 3], "probabilities": ["batch", 3], "logits": ["batch", 3]}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_raw_pixels_fed_by_plain_onnxruntime_give_the_checkpoints_answer(source, exported):
    import onnxruntime

    pixels = np.random.default_rng(1).integers(0, 256, (5, 48, 40, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    probabilities, logits = session.run(None, {"image": pixels})
    assert np.allclose(logits, source.logits(pixels), atol=1e-4 * np.ptp(logits))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_calibration_divides_the_logits_for_the_probabilities_only(tmp_path):
    spec = replace(SPEC, calibration=Calibration(temperature=3.0))
    warm = make_source(spec=spec)
    build_file(warm, tmp_path / "warm.onnx")
    seen = medinfer.load(tmp_path / "warm.onnx", "cpu").predict(np.full((50, 60, 3), 90, np.uint8))
    logits = np.array(list(seen.logits.values()))
    powers = np.exp((logits - logits.max()) / 3)
    assert np.allclose(list(seen.probabilities.values()), powers / powers.sum(), atol=1e-5)


def test_gray_contracts_export_too(tmp_path):
    gray = replace(SPEC, input=replace(SPEC.input, color="gray", mean=(0.5,), std=(0.2,)))
    spec = build_file(make_source(spec=gray), tmp_path / "gray.onnx")
    assert spec.agreement is not None
    assert spec.agreement.differences.label_flips == 0


# Each way in which an export has been seen to go wrong, done to the file but not to the checkpoint.
def swap_mean_and_std(s):
    return replace(s, classifier=Classifier(s.classifier.network, s.spec.input.std, s.spec.input.mean).eval())


def scale_one_tensor(s):
    import copy

    network = copy.deepcopy(s.classifier.network)
    with torch.no_grad():
        [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1].weight.mul_(1.01)
    return replace(s, classifier=Classifier(network, s.spec.input.mean, s.spec.input.std).eval())


def leave_dropout_on(s):
    class Dropping(nn.Module):
        def forward(self, x):
            return x * (torch.arange(128) % 2)  # what one draw of dropout does

    import copy

    network = copy.deepcopy(s.classifier.network)
    network.head[0] = Dropping()
    return replace(s, classifier=Classifier(network, s.spec.input.mean, s.spec.input.std).eval())


def feed_bgr(s):
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = s.classifier

        def forward(self, image):
            return self.inner(image.flip(1))

    return replace(s, classifier=Swapped().eval())


def resize_otherwise(s):
    return replace(s, spec=replace(s.spec, input=replace(s.spec.input, interpolation="linear")))


def rotate_the_classes(s):
    return replace(s, spec=replace(s.spec, classes=("b", "c", "a")))


@pytest.mark.parametrize(
    "breaking",
    [swap_mean_and_std, scale_one_tensor, leave_dropout_on, feed_bgr, resize_otherwise, rotate_the_classes],
)
def test_a_broken_export_is_caught(source, tmp_path, breaking):
    broken = breaking(source)
    draft = tmp_path / "draft.onnx"
    draft.write_bytes(stamp(to_onnx(broken.classifier, broken.spec), replace(broken.spec, graph=Graph())))
    with pytest.raises(DisagreementError) as caught:
        judge(source, medinfer.load(draft, "cpu"), images_of(None))
    assert caught.value.exit_code == 6


def test_no_file_is_left_where_the_verdict_is_against_it(source, tmp_path, monkeypatch):
    right = build.to_onnx
    monkeypatch.setattr(build, "to_onnx", lambda classifier, spec: right(scale_one_tensor(source).classifier, spec))
    with pytest.raises(DisagreementError):
        build_file(source, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_hardly_answers_is_refused(source, tmp_path):
    import copy

    network = copy.deepcopy(source.classifier.network)
    with torch.no_grad():
        network.head[1].weight.mul_(1e-4)
    dull = replace(source, classifier=Classifier(network, SPEC.input.mean, SPEC.input.std).eval())
    with pytest.raises(DisagreementError, match="any two models would agree"):
        build_file(dull, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_told_otherwise(source, exported):
    before = hashlib.sha256(exported.read_bytes()).digest()
    with pytest.raises(UsageError, match="--overwrite"):
        build_file(source, exported)
    assert hashlib.sha256(exported.read_bytes()).digest() == before


def test_images_of_a_folder_are_spread_over_it_and_the_verdict_names_them_by_hash(source, exported, tmp_path):
    import cv2

    for i in range(30):
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), np.random.default_rng(i).integers(0, 256, (30, 30, 3), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"x")
    chosen = images_of(tmp_path, 10)
    assert len(chosen.images) == 10
    agreement = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path, None))
    assert (agreement.images, agreement.differences.count) == ("data", 30)
    assert agreement.images_sha256 == images_of(tmp_path, None).sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        images_of(tmp_path / "empty")
