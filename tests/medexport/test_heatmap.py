"""`--heatmap`: class activation maps as one more output, and their overlays."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import medinfer
from medexport.build import build_file
from medexport.heatmap import find_pooled
from medexport.source import Source
from medinfer.cli import cli
from medinfer.errors import DisagreementError, UsageError
from medinfer.spec import Graph

HEATMAP = Graph(extra_outputs=("heatmap",))


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heatmap")
    build_file(source, folder / "plain.onnx")
    build_file(source, folder / "m.onnx", graph=HEATMAP)
    return folder


@pytest.mark.parametrize(
    "graph",
    [HEATMAP, replace(HEATMAP, batch=2), replace(HEATMAP, input="float")],
    ids=["any batch", "batch of two", "float"],
)
def test_the_mean_of_a_map_is_the_logit_less_its_bias(graph, source, picture, tmp_path):
    build_file(source, tmp_path / "m.onnx", graph=graph)
    bias = find_pooled(source.classifier, source.spec.input).linear.bias.detach().numpy()
    images = [picture(60, 50, 3, seed=seed) for seed in range(5)]
    for seen in medinfer.load(tmp_path / "m.onnx", "cpu").predict_many(images):
        assert list(seen.heatmaps) == ["a", "b", "c"]
        shares = np.array([heatmap.mean() for heatmap in seen.heatmaps.values()])
        assert np.allclose(shares + bias, seen.raw, atol=1e-4 * max(1, np.abs(seen.raw).max()))
        assert np.ptp(seen.heatmaps["a"]) > 0


def test_maps_change_no_answer(folder, picture):
    images = [picture(60, 50, 3, seed=seed) for seed in range(3)]
    plain, mapped = (medinfer.load(folder / name, "cpu").predict_batch(images) for name in ("plain.onnx", "m.onnx"))
    for one, other in zip(plain, mapped, strict=True):
        assert np.array_equal(one.raw, other.raw)
        assert one.heatmaps is None


@pytest.mark.parametrize("fields", [{"arch": "malaria_cnn"}, {"arch": "resnet18", "head": "batchnorm-256"}])
def test_a_network_without_averages_before_one_linear_layer_is_refused(fields, make_source, tmp_path):
    with pytest.raises(UsageError, match="average of feature maps") as caught:
        build_file(make_source(**fields), tmp_path / "m.onnx", graph=HEATMAP)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


class Shifted(nn.Module):
    """Averages, of which it then takes others than come out of the maps."""

    def __init__(self, channels):
        super().__init__()
        self.maps, self.last = nn.Conv2d(channels, 8, 3), nn.Linear(8, 3)

    def forward(self, image):
        return self.last(torch.roll(self.maps(image.float()).mean((2, 3)), 1, 1))


def test_maps_that_are_not_what_is_averaged_are_refused(spec):
    with pytest.raises(UsageError, match="average of feature maps"):
        find_pooled(Shifted(3), spec.input)


def test_maps_that_differ_from_torchs_are_no_export(source, spec, tmp_path, monkeypatch):
    real = find_pooled(source.classifier, spec.input)
    bent = nn.Linear(real.linear.in_features, 3)
    monkeypatch.setattr("medexport.graph.find_pooled", lambda *_: real._replace(linear=bent))
    with pytest.raises(DisagreementError, match="heatmaps differ"):
        build_file(Source(source.classifier, spec), tmp_path / "m.onnx", graph=HEATMAP)
    assert not list(tmp_path.iterdir())


def run(folder, *words):
    command = [*map(str, words), "-m", str(folder / "m.onnx"), "--provider", "cpu", "--format", "jsonl"]
    command = [sys.executable, "-m", "medinfer", *command, "--heatmaps", str(folder / "drawn")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_overlays_have_the_size_of_their_images_and_lie_below_the_folder(folder, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans/sub").mkdir(parents=True)
    sizes = {"scans/x.png": (33, 70), "scans/sub/x.png": (90, 41)}
    for name, (height, width) in sizes.items():
        cv2.imwrite(name, picture(height, width, 3))
    (tmp_path / "scans/bad.png").write_bytes(b"")
    done = run(folder, "scans")
    assert done.returncode == 3
    drawn = {path.relative_to(folder / "drawn").as_posix(): path for path in (folder / "drawn").rglob("*.png")}
    assert set(drawn) == {f"{name}.heatmap.png" for name in sizes}
    for name, size in sizes.items():
        assert cv2.imread(str(drawn[f"{name}.heatmap.png"])).shape[:2] == size
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


@pytest.mark.parametrize("source_path", ["/etc/../x.png", "../../x.png", "C/../../../x.png"])
def test_no_path_leads_out_of_the_folder(source_path, folder):
    from medinfer.heatmap import HeatmapFolder

    made = HeatmapFolder(folder / "drawn", medinfer.load(folder / "m.onnx", "cpu").spec).path(source_path)
    assert made.is_relative_to(folder / "drawn")
    assert ".." not in made.parts


def test_a_model_without_maps_says_how_to_make_one(folder, tmp_path):
    command = [str(tmp_path), "-m", str(folder / "plain.onnx"), "--heatmaps", str(tmp_path / "drawn")]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, UsageError)
    assert "medexport onnx ckpt.pt --heatmap" in str(done.exception)
