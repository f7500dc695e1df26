"""Channels around depthwise convolutions brought to one range: the answers stay, and int8 keeps nearer to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medexport.equalise import equalised
from medexport.graph import to_onnx
from medexport.quantize import quantise
from medexport.source import Source, from_module
from medexport.trial import Feed, inner_values, logits_of
from medinfer.spec import Graph


class Mobile(nn.Module):
    """Two convolutions with a depthwise one between them, whose channels differ a hundredfold."""

    def __init__(self, activation, *, residual=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand, self.depthwise = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.project, self.second, self.head = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 16, 3, 2, 1), nn.Linear(16, 3)
        self.activation, self.residual = activation, residual
        sizes = torch.logspace(-1.5, 0.5, 32)
        with torch.no_grad():
            for tensor in (self.expand.weight, self.expand.bias):
                tensor.mul_(sizes.reshape(-1, *[1] * (tensor.ndim - 1)))
            self.depthwise.weight.div_(sizes.reshape(-1, 1, 1, 1))
            self.head.weight.mul_(30)

    def forward(self, x):
        expanded = self.activation(self.expand(self.activation(self.first(x))))
        deep = self.activation(self.depthwise(expanded))
        x = self.activation(self.second(self.project(deep + expanded if self.residual else deep)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def tensors(picture):
    return np.stack([picture(48, 40, seed=seed) for seed in range(24)])


def exported(spec, activation=torch.relu, **words):
    source = from_module(Mobile(activation, **words), spec)
    return source, to_onnx(source.classifier, replace(spec, graph=Graph()))


@pytest.mark.parametrize("activation", [torch.relu, nn.functional.relu6], ids=["relu", "relu6"])
def test_the_answers_stay_and_the_channels_grow_alike(spec, tensors, activation):
    source, model = exported(spec, activation)
    before = model.SerializeToString(deterministic=True)
    changed = equalised(model, Feed(spec), tensors)
    assert model.SerializeToString(deterministic=True) == before
    np.testing.assert_allclose(logits_of(changed, Feed(spec), tensors), source.logits(tensors), rtol=1e-3, atol=1e-3)
    taken = next(node.input[0] for node in changed.graph.node if "depthwise" in " ".join(node.input))

    def median_share(graph):
        largest = np.max(
            [value[0].max(axis=(0, 2, 3)) for value in inner_values(graph, [taken], Feed(spec), tensors)], 0
        )
        return np.median(largest / largest.max())

    assert median_share(changed) > 2 * median_share(model)


def test_what_is_read_twice_and_what_is_not_a_relu_stays(spec, tensors):
    for words in ({"residual": True}, {"activation": nn.functional.silu}):
        source, model = exported(spec, **words)
        changed = equalised(model, Feed(spec), tensors)
        np.testing.assert_allclose(
            logits_of(changed, Feed(spec), tensors), source.logits(tensors), rtol=1e-4, atol=1e-4
        )
    assert changed.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_int8_keeps_nearer_to_the_checkpoint(run, images, minmax, monkeypatch):
    source = from_module(Mobile(torch.relu), run[0].spec)
    spec = replace(source.spec, graph=Graph(precision="int8"))
    model = to_onnx(source.classifier, spec)
    told = []

    def distance():
        quantise(model, spec, Source(source.classifier, spec), replace(images, tell=told.append))
        return float(told[-1].split("mean |dlogit| ")[1].split(",")[0])

    with_it = distance()
    monkeypatch.setattr("medexport.quantize.equalised", lambda model, *_: model)
    assert with_it < 0.8 * distance()
