"""The score of images unlike the training's, from the checkpoint into the file."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

import medinfer
from medexport.bisect import first_difference
from medexport.build import build_all, build_file
from medexport.graph import to_onnx
from medexport.reference import images_of
from medexport.sidecars import Sidecars
from medexport.source import Source
from medexport.stamp import stamp
from medexport.verify import judge
from medinfer.agreement import compare_scores
from medinfer.errors import DisagreementError, UsageError
from medinfer.spec import Abstention, Conformal, Graph, Outliers
from medtrain.network import network_config
from medtrain.outliers import learn_outliers
from medtrain.recipe import Network

LIMITS = Abstention(
    conformal=Conformal(coverage=0.9, thresholds=(0.3, 0.3, 0.3), images=50),
    outliers=Outliers(threshold=0.05, in_distribution=0.95),
)


def remembering(source, arch="small_cnn"):
    """Return a source that remembers some pictures."""
    classifier = copy.deepcopy(source.classifier)
    config = network_config(Network(arch=arch), source.spec.input, classes=3)
    pictures = np.random.default_rng(0).integers(0, 256, (60, 48, 40, 3), dtype=np.uint8)
    learn_outliers(classifier, config, pictures)
    return Source(classifier, replace(source.spec, abstention=LIMITS))


@pytest.mark.parametrize("graph", [Graph(), Graph(batch=2), Graph(input="float")], ids=["any", "two", "float"])
def test_the_file_gives_the_checkpoints_scores(source, tmp_path, picture, graph):
    told = remembering(source)
    spec = build_file(told, tmp_path / "m.onnx", graph=graph)
    assert spec.graph.extra_outputs == ("ood_score",)
    assert spec.agreement.max_ood_score < 1e-5
    assert spec.agreement.status_flips == 0
    model = medinfer.load(tmp_path / "m.onnx", "cpu")
    pictures = [picture(48, 40, seed=i) for i in range(5)]
    found = [seen.ood_score for seen in model.predict_batch(pictures)]
    assert found == pytest.approx(told.scored(np.stack(pictures))[1].tolist(), abs=1e-5)
    assert len(set(found)) == 5


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_lite0"])
def test_every_kind_of_network_can_tell(make_source, arch, tmp_path):
    told = remembering(make_source(arch), arch)
    spec = build_file(told, tmp_path / "m.onnx")
    assert spec.agreement.max_ood_score < 1e-4


def test_a_file_whose_scores_are_others_is_refused_though_its_logits_agree(source, tmp_path):
    told = remembering(source)
    broken = copy.deepcopy(told.classifier)
    with torch.no_grad():
        broken.head.basis.mul_(0.9)
    spec = replace(told.spec, graph=Graph(extra_outputs=("ood_score",)))
    (tmp_path / "m.onnx").write_bytes(stamp(to_onnx(broken, spec), spec))
    with pytest.raises(DisagreementError, match="unlike images"):
        judge(told, medinfer.load(tmp_path / "m.onnx", "cpu"), images_of(None))
    assert first_difference(told, tmp_path / "m.onnx", images_of(None)) is not None


def test_a_checkpoint_that_remembers_nothing_gives_a_file_of_two_outputs(exported):
    assert [value.name for value in onnx.load(exported).graph.output] == ["probabilities", "logits"]
    assert medinfer.load(exported, "cpu").spec.agreement.max_ood_score is None


def test_its_golden_samples_hold_the_score(source, tmp_path):
    build_file(remembering(source), tmp_path / "m.onnx")
    model = medinfer.load(tmp_path / "m.onnx", "cpu")
    report = medinfer.verify(model)
    assert report.passes
    assert report.max_score_difference < 1e-5
    told = model.spec.to_json()
    told["golden"][0]["ood_score"] += 0.01
    model.spec = type(model.spec).from_json(told)
    moved = medinfer.verify(model)
    assert not moved.passes
    assert moved.max_score_difference == pytest.approx(0.01, abs=1e-4)


def test_tf32_is_judged_by_what_it_allows():
    wanted, off = np.float32([0.3, 20.0]), np.float32([0.3004, 20.1])
    assert not compare_scores(wanted, off, "fp32")[1]
    assert compare_scores(wanted, off, "tf32")[1]
    # One outlier must not excuse the others.
    assert not compare_scores(np.float32([0.3, 100.0]), np.float32([0.305, 100.0]), "fp32")[1]
    assert not compare_scores(wanted, np.float32([np.nan, 20]), "tf32")[1]


def test_limits_without_a_network_that_can_tell_are_refused(source, tmp_path):
    with pytest.raises(UsageError, match="training images"):
        build_file(replace(source, spec=replace(source.spec, abstention=LIMITS)), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(("batch", "dims"), [(None, "dims: [1], reshape: { shape: [] }"), (2, "dims: [2]")])
def test_triton_is_told_of_the_score(source, tmp_path, batch, dims):
    told = remembering(source)
    build_all(
        told,
        tmp_path / "m.onnx",
        Sidecars(triton=tmp_path / "triton"),
        graph=Graph(batch=batch),
        images=images_of(None),
    )
    (config,) = (tmp_path / "triton").rglob("config.pbtxt")
    assert f'{{ name: "ood_score", data_type: TYPE_FP32, {dims} }}' in config.read_text()
