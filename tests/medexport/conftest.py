"""Networks to export: small, with real BatchNorm statistics and logits that vary."""

from __future__ import annotations

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from medexport import quantize, worth
from medexport.build import build_file
from medexport.source import Source
from medexport.splits import balanced, images_of_splits
from medexport.worth import Speed
from medinfer.labels import read_rows
from medinfer.spec import Abstention, Conformal, Graph, InputSpec, ModelSpec, Outliers, Provenance
from medtrain.dataset import load_dataset, write_splits
from medtrain.network import Classifier, build_network, network_config
from medtrain.outliers import learn_outliers
from medtrain.recipe import Data, Network

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


# What int8 and fp16 are tried on.
INT8 = Graph(precision="int8")
FASTER = Speed(ratio=2.0, low=1.9, plain_ms=10.0, quantised_ms=5.0)


@pytest.fixture(scope="session")
def run(source, picture, tmp_path_factory):
    """A training run that might have been: (the source with the hash of its data, the data folder, splits.csv).

    The labels are the network's own answers, on the images that it is surest of, so that its AUC is high.
    """
    folder = tmp_path_factory.mktemp("run")
    pictures = [picture(48, 40, seed=i) for i in range(600)]
    logits = source.logits(np.stack(pictures))
    # Made to like all classes alike.
    classifier = copy.deepcopy(source.classifier)
    with torch.no_grad():
        classifier.head[1].bias -= torch.from_numpy(np.median(logits, axis=0))
    logits = logits - np.median(logits, axis=0)
    surest = np.argsort(-np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0], kind="stable")[:300]
    for i in map(int, sorted(surest)):
        pixels, answer = pictures[i], int(logits[i].argmax())
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


@pytest.fixture(scope="session")
def rows(run):
    """The rows of its table, by split."""
    found = {split: [] for split in ("train", "validation", "test")}
    for _, row in read_rows(run[2], ("split",)):
        found[row["split"]].append(row)
    return found


@pytest.fixture(scope="session")
def images(run):
    source, data, table = run
    return images_of_splits(table, data, source.spec)


@pytest.fixture(scope="session")
def int8(run, images, tmp_path_factory):
    """Path of an int8 file; what a clock says of it is not asked. Not to be changed."""
    path = tmp_path_factory.mktemp("int8") / "fp32.onnx"  # what it is measured against must not stand in its way
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth, "compare_speed", lambda *_: FASTER)
        build_file(run[0], path, graph=INT8, images=images)
    return path


@pytest.fixture
def minmax(monkeypatch):
    """One calibration, which takes a third of the time of three."""
    monkeypatch.setattr(quantize, "get_args", lambda _: ("minmax",))


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(worth, "compare_speed", lambda *_: FASTER)


@pytest.fixture(scope="session")
def remembering(run, rows):
    source = run[0]
    classifier = copy.deepcopy(source.classifier)
    config = network_config(Network(arch="small_cnn"), source.spec.input, classes=3)
    training = balanced(rows["train"], source.spec.classes)
    tensors = np.stack([cv2.imread(str(run[1] / row["path"]))[..., ::-1] for row in training])
    learn_outliers(classifier, config, tensors)
    limits = Abstention(
        conformal=Conformal(coverage=0.9, thresholds=(0.3, 0.3, 0.3), images=50),
        outliers=Outliers(threshold=0.05, in_distribution=0.95),
    )
    return Source(classifier, replace(source.spec, abstention=limits))


@pytest.fixture
def checkpoint(run, tmp_path, monkeypatch):
    """A folder with ckpt.pt and splits.csv, as `medtrain fit` leaves it; the working directory."""
    (tmp_path / "ckpt.pt").write_bytes(b"")
    (tmp_path / "splits.csv").write_bytes(run[2].read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medexport.source.read_checkpoint", lambda path: run[0])
    return tmp_path
