"""Networks to export: small, with real BatchNorm statistics and logits that vary."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medexport.build import build_file
from medexport.source import Source
from medinfer.spec import InputSpec, ModelSpec, Provenance
from medtrain.network import Classifier, build_network, network_config
from medtrain.recipe import Network

SPEC = ModelSpec(
    name="tried",
    classes=("a", "b", "c"),
    task="multiclass",
    input=InputSpec(height=48, width=40, interpolation="area", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    provenance=Provenance(recipe="r", data_sha256="0" * 64, created="2026-01-01T00:00:00+00:00", versions={}),
)


def _make_source(arch="small_cnn", spec=SPEC, **fields):
    torch.manual_seed(0)
    wanted = Network(arch=arch, dropout=0.5, **fields)
    network = build_network(network_config(wanted, spec.input, classes=len(spec.classes)))
    classifier = Classifier(network, spec.input.mean, spec.input.std)
    noise = torch.randint(0, 256, (16, spec.input.channels, spec.input.height, spec.input.width), dtype=torch.uint8)
    classifier.train()
    with torch.no_grad():
        for _ in range(5):
            classifier(noise)
        [module for module in network.modules() if isinstance(module, nn.Linear)][-1].weight.mul_(20)
    return Source(classifier.eval(), spec)


@pytest.fixture(scope="session")
def spec():
    """A contract of three classes, 48x40 RGB."""
    return SPEC


@pytest.fixture(scope="session")
def make_source():
    """Builds what is exported, with a logit spread of several units: `make_source("resnet18", spec, pool="max")`."""
    return _make_source


@pytest.fixture(scope="session")
def source():
    """A small CNN; not to be changed."""
    return _make_source()


@pytest.fixture(scope="session")
def exported(source, tmp_path_factory):
    """Path of its export; not to be changed."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    build_file(source, path)
    return path
