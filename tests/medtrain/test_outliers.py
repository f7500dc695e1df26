"""What a network remembers of its training images, and how it tells others apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medinfer.errors import SpecError
from medinfer.spec import InputSpec, ModelSpec
from medtrain.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medtrain.head import Head, HeadConfig
from medtrain.network import (
    Classifier,
    build_network,
    knows_outliers,
    network_config,
    predict_logits,
    predict_scored,
)
from medtrain.outliers import learn_outliers, principal_directions
from medtrain.recipe import Network

INPUT = InputSpec(height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
SPEC = ModelSpec(name="tried", classes=("a", "b"), task="binary", input=INPUT)


def pictures(count, *, low=0, high=256, seed=0):
    return np.random.default_rng(seed).integers(low, high, (count, 32, 32, 3), dtype=np.uint8)


def made(arch="small_cnn", head="linear"):
    torch.manual_seed(0)
    config = network_config(Network(arch=arch, head=head), INPUT, classes=2)
    return Classifier(build_network(config), INPUT.mean, INPUT.std).eval(), config


def test_the_score_is_the_share_outside_the_directions():
    head = Head(4, HeadConfig(classes=2))
    # Training images vary along two axes about (1, 1, 2, 0).
    plane = torch.tensor([[0.0, 1], [2, 1], [1, 0], [1, 2], [1, 1]])
    features = torch.cat([plane, torch.tensor([[2.0, 0]] * 5)], dim=1)
    head.remember(*principal_directions(features, 2))
    assert torch.allclose(head.residual(features), torch.zeros(5), atol=1e-6)
    apart = torch.tensor([[1.0, 1, 5, 4]])
    # 25 of 43 lies outside; a hundredth of the mean's own square, 6, is added below.
    assert head.residual(apart).item() == pytest.approx(25 / 43.06, rel=1e-5)
    assert torch.isfinite(head.residual(torch.zeros(1, 4))).all()


def test_features_of_a_network_that_has_died_are_no_error():
    head = Head(4, HeadConfig(classes=2))
    head.remember(*principal_directions(torch.zeros(5, 4), 1))
    assert head.residual(torch.zeros(3, 4)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [1, 2])
def test_few_training_images_are_enough(count):
    classifier, config = made()
    assert learn_outliers(classifier, config, pictures(count)).head.directions == 1
    assert np.isfinite(predict_scored(classifier, pictures(3))[1]).all()


@pytest.mark.parametrize("head", ["linear", "batchnorm-256"])
@pytest.mark.parametrize("arch", ["small_cnn", "malaria_cnn", "resnet18"])
def test_remembering_changes_no_logit_and_travels_in_the_checkpoint(arch, head, tmp_path):
    classifier, config = made(arch, head)
    images = pictures(40)
    before = predict_logits(classifier, images)
    assert not knows_outliers(classifier)
    assert predict_scored(classifier, images)[1] is None
    config = learn_outliers(classifier, config, images)
    logits, scores = predict_scored(classifier, images)
    assert np.array_equal(logits, before)
    assert scores.shape == (40,)
    state = classifier.state_dict()
    save_checkpoint(Checkpoint(SPEC, config, {}, "", {}, {}, state), tmp_path / "ckpt.pt")
    again = load_checkpoint(tmp_path / "ckpt.pt").classifier()
    assert np.array_equal(predict_scored(again, images)[1], scores)


def test_other_pictures_lie_farther_out():
    classifier, config = made()
    learn_outliers(classifier, config, pictures(80, high=60))
    alike = predict_scored(classifier, pictures(20, high=60, seed=1))[1]
    unlike = predict_scored(classifier, pictures(20, low=180, seed=1))[1]
    assert np.median(unlike) > np.max(alike)


def test_the_same_images_are_remembered_alike():
    scores = []
    for _ in range(2):
        classifier, config = made()
        learn_outliers(classifier, config, pictures(30))
        scores.append(predict_scored(classifier, pictures(5, seed=2))[1])
    assert np.array_equal(*scores)


def test_a_hostile_checkpoint_cannot_ask_for_all_memory():
    with pytest.raises(SpecError, match="directions"):
        HeadConfig(classes=2, directions=10**9)
