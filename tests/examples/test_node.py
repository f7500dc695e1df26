"""The contract in JavaScript: within a grey level of medinfer's pixels, and its answers.

`make test-peers` installs what onnxruntime in node.js needs under build/, and runs all of this.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import medinfer
from medinfer.spec import InputSpec

NODE = Path(__file__).parents[2] / "examples/node"
MODULES = Path(os.environ.get("MEDONNX_PEERS", "build")).resolve() / "node/node_modules"

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")

# Prints the tensor of each case as base64.
PREPROCESS = """
import { readFileSync } from "node:fs";
import { preprocess } from "%s/preprocess.mjs";
for (const { width, height, depth, rgba, input } of JSON.parse(readFileSync(0))) {
  const bytes = new Uint8Array(Buffer.from(rgba, "base64"));
  const data = depth === 16 ? new Uint16Array(bytes.buffer) : bytes;
  console.log(Buffer.from(preprocess({ width, height, data }, input)).toString("base64"));
}
"""


def in_node(images, specs):
    """Return the tensors that JavaScript makes of images, (H, W, 3) or (H, W), by their specs."""
    cases = []
    for image, spec in zip(images, specs, strict=True):
        color = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
        opaque = np.full((*color.shape[:2], 1), np.iinfo(image.dtype).max, image.dtype)
        rgba = base64.b64encode(np.concatenate([color, opaque], axis=2).tobytes()).decode()
        height, width = color.shape[:2]
        depth = 8 * image.itemsize
        cases.append({"width": width, "height": height, "depth": depth, "rgba": rgba, "input": spec.to_json()})
    command = ["node", "--input-type=module", "--eval", PREPROCESS % NODE]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [
        np.frombuffer(base64.b64decode(line), np.uint8).reshape(spec.height, spec.width, spec.channels)
        for line, spec in zip(done.stdout.splitlines(), specs, strict=True)
    ]


def agree(images, specs):
    __tracebackhide__ = True
    for image, spec, found in zip(images, specs, in_node(images, specs), strict=True):
        wanted = medinfer.preprocess(image, spec)
        difference = np.abs(found.astype(int) - wanted).max()
        assert difference <= 1, f"{image.shape} {image.dtype} by {spec}: {difference} levels"


FITS = ["stretch", {"crop": {"resize": 31}}, {"pad": {"value": 77}}, {"pad": {"value": 9, "anchor": "top_left"}}]


def spec_of(**fields):
    channels = 1 if fields.get("color") == "gray" else 3
    data = {"height": 24, "width": 29, "mean": [0.5] * channels, "std": [1.0] * channels, **fields}
    return InputSpec.from_json(data)


@pytest.mark.parametrize("interpolation", ["linear", "area", "cubic"])
def test_pixels_are_within_a_grey_level_for_every_fit_and_size(interpolation, picture):
    # The model's own size; grown; shrunk by two, by much and by a little; one way each; a line.
    shapes = [(24, 29), (7, 11), (48, 58), (301, 500), (25, 30), (20, 90), (90, 20), (1, 40)]
    cases = list(itertools.product(shapes, FITS, ["rgb", "gray"]))
    images = [picture(*shape, seed=i) for i, (shape, _, _) in enumerate(cases)]
    # Edges as hard as they come, besides noise: a wrong weight shows there.
    images[::2] = [np.where(image > image.mean(), 255, 0).astype(np.uint8) for image in images[::2]]
    agree(images, [spec_of(fit=fit, color=color, interpolation=interpolation) for _, fit, color in cases])


def test_16_bit_and_gray_pictures_are_read_by_the_contracts_rules(picture):
    rules = [{"rule": "high_byte"}, {"rule": "range", "low": 100, "high": 4095}]
    cases = list(itertools.product(rules, [1, 3], ["rgb", "gray"]))
    images = [picture(40, 33, channels, dtype=np.uint16) // 9 for _, channels, _ in cases]
    agree(images, [spec_of(depth16=rule, color=color) for rule, _, color in cases])


@pytest.fixture
def classify(tmp_path):
    """Runs the program in a folder of its own, with the packages that it needs beside it."""
    for name in ("onnxruntime-node", "pngjs"):
        if not (MODULES / name).exists():
            pytest.skip(f"{MODULES / name} is not there: make test-peers installs it")
    shutil.copytree(NODE, tmp_path / "node")
    (tmp_path / "node/node_modules").symlink_to(MODULES)

    def run(model, *images, contract=None):
        command = [sys.executable, "-m", "medinfer", "info", model, "--json"]
        described = subprocess.run(command, capture_output=True, text=True, check=True)
        contract = {**json.loads(described.stdout), **(contract or {})}
        (tmp_path / "contract.json").write_text(json.dumps(contract))
        words = [tmp_path / "node/classify.mjs", model, tmp_path / "contract.json", *images]
        return subprocess.run(["node", *map(str, words)], capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{}, {"alpha": {"over": [200, 100, 0]}, "fit": {"pad": {"value": 3}}}, {"color": "gray"}]
)
def test_the_answers_are_medinfers(classify, build_model, model_spec, picture, tmp_path, fields):
    channels = 1 if fields.get("color") == "gray" else 3
    size = {"height": 12, "width": 16, "mean": [0.0] * channels, "std": [1.0] * channels}
    path = build_model(tmp_path / "m.onnx", model_spec(input=InputSpec.from_json({**size, **fields})), golden=True)
    exact, other = [], []  # of the model's own size there is nothing to round
    for i, (shape, kind, levels) in enumerate(
        itertools.product([(12, 16), (45, 80)], [np.uint8, np.uint16], [1, 3, 4])
    ):
        image = tmp_path / f"{i}.png"
        cv2.imwrite(str(image), picture(*shape, levels, dtype=kind))
        (exact if shape == (12, 16) else other).append(str(image))
    done = classify(path, *exact, *other)
    assert done.returncode == 0, done.stderr
    told = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    model = medinfer.load(path, "cpu")
    for image in exact + other:
        seen = model.predict(image)
        assert told[image]["label"] == seen.label
        found = np.array([told[image]["probabilities"][name] for name in model.classes])
        assert np.abs(found - seen.scores).max() < (1e-5 if image in exact else 0.05), image


@pytest.fixture
def resizing(tmp_path):
    """Path of a file that takes images of any size, as `medexport onnx --input image` writes it."""
    torch = pytest.importorskip("torch")
    from medexport.build import build_file
    from medexport.source import from_module
    from medinfer.spec import Graph, ModelSpec

    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 29, 3))
    spec = ModelSpec(name="whole", classes=("a", "b", "c"), task="multiclass", input=spec_of(min_side=7))
    build_file(from_module(layers.eval(), spec), tmp_path / "m.image.onnx", graph=Graph(input="image", batch=1))
    return tmp_path / "m.image.onnx"


@pytest.mark.slow
def test_a_file_that_resizes_within_answers_as_in_python(classify, resizing, picture, tmp_path):
    shapes = [(24, 29), (7, 11), (200, 31), (45, 80, 4), (301, 500)]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(shapes))]
    for path, shape in zip(paths, shapes, strict=True):
        cv2.imwrite(path, picture(*shape))
    cv2.imwrite(str(tmp_path / "small.png"), picture(6, 40))
    done = classify(resizing, *paths, tmp_path / "small.png")
    *told, refused = map(json.loads, done.stdout.splitlines())
    assert len(told) == len(shapes)
    for line, seen in zip(told, medinfer.load(resizing, "cpu").predict_many(paths), strict=True):
        assert line["label"] == seen.label
        assert np.abs(np.array(list(line["probabilities"].values())) - seen.scores).max() < 1e-5
    assert "sides of at least 7" in refused["error"]


@pytest.mark.slow
def test_what_is_no_png_is_told_and_the_others_are_classified(classify, tiny_model, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), picture(20, 20))
    (tmp_path / "bad.png").write_bytes(b"no picture at all" * 9)
    done = classify(tiny_model, tmp_path / "bad.png", tmp_path / "good.png")
    bad, good = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 3
    assert "error" in bad
    assert good["label"] == medinfer.load(tiny_model, "cpu").predict(tmp_path / "good.png").label


@pytest.mark.slow
@pytest.mark.parametrize("change", ["format", "golden", "fit"])
def test_a_contract_that_it_would_get_wrong_is_refused(classify, tiny_model, picture, tmp_path, change):
    contract = medinfer.load(tiny_model, "cpu").spec.to_json()
    if change == "format":
        contract["format"], words = 2, "format 2"
    elif change == "golden":
        contract["golden"][0]["logits"][0] += 1
        words = "logits differ"
    else:
        contract["input"]["fit"], words = {"pad": {"value": 0}}, "pixels differ"
    cv2.imwrite(str(tmp_path / "scan.png"), picture(20, 20))
    done = classify(tiny_model, tmp_path / "scan.png", contract=contract)
    assert done.returncode != 0
    assert words in done.stderr
    assert not done.stdout
