"""Other programs open the files and give our answers: Ultralytics, model_api, optimum, onnxruntime 1.17, JavaScript.

`make test-peers` installs them under build/, each in an environment of its own, and runs this.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import medinfer
from medexport.build import build_all, build_file
from medexport.reference import images_of
from medexport.sidecars import Sidecars
from medinfer.spec import Graph

OPENVINO = Path("openvino/bin/python")
HERE, BUILD = Path(__file__).parent, Path(os.environ.get("MEDONNX_PEERS", "build")).resolve()
PEERS, OLD, NODE = BUILD / "peers/bin/python", BUILD / "ort117/bin/python", BUILD / "node/node_modules/onnxruntime-node"

pytestmark = pytest.mark.slow


def ask(program, needed, script, *words, cwd=None):
    """Run a script with another program and return what it prints as JSON."""
    if not needed.exists():
        pytest.skip(f"{needed} is not there: make test-peers installs it")
    # Ultralytics asks its servers for updates and writes settings, unless told not to and where.
    settings = {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": tempfile.gettempdir(), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [program, HERE / script, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    """A default file, a float one, and images that have the model's size already."""
    folder = tmp_path_factory.mktemp("peers")
    build_file(source, folder / "model.onnx")
    build_file(source, folder / "model.float.onnx", graph=Graph(input="float", batch=1))
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), np.repeat(np.repeat(pixels, 8, axis=0), 8, axis=1))
    return folder


@pytest.fixture(scope="module")
def images(folder):
    return sorted(map(str, folder.glob("*.png")))


@pytest.fixture(scope="module")
def wanted(folder, images):
    rows = [seen.scores for seen in medinfer.load(folder / "model.onnx", "cpu").predict_batch(images)]
    assert np.ptp(rows) > 0.5  # agreement means something
    return np.stack(rows)


@pytest.fixture(scope="module")
def pixels(images):
    return np.stack([cv2.imread(path)[..., ::-1] for path in images])


def test_ultralytics_finds_task_and_names_and_agrees_to_4_digits(folder, images, wanted, tmp_path):
    found = ask(PEERS, PEERS, "ask_ultralytics.py", folder / "model.float.onnx", *images)
    assert (found["task"], found["names"]) == ("classify", ["a", "b", "c"])
    assert np.abs(found["probabilities"] - wanted).max() < 5e-5


def test_model_api_finds_labels_and_agrees_to_3_digits(folder, images, wanted):
    found = ask(PEERS, PEERS, "ask_model_api.py", folder / "model.float.onnx", *images)
    assert found["labels"] == ["a", "b", "c"]
    assert np.abs(found["probabilities"] - wanted).max() < 5e-4


def test_hugging_faces_optimum_loads_the_folder_and_agrees_to_4_digits(source, folder, images, wanted):
    build_all(source, folder / "hf.onnx", Sidecars(hf=folder / "hf"), graph=Graph(), images=images_of(None))
    found = ask(PEERS, PEERS, "ask_optimum.py", folder / "hf", *images)
    assert found["labels"] == ["a", "b", "c"]
    assert np.abs(found["probabilities"] - wanted).max() < 5e-5


def test_onnxruntime_1_17_opens_the_file_and_agrees(folder, wanted, pixels):
    np.save(folder / "pixels.npy", pixels)
    found = ask(OLD, OLD, "ask_onnxruntime.py", folder / "model.onnx", folder / "pixels.npy")
    assert found["version"].startswith("1.17.")
    assert np.abs(found["probabilities"] - wanted).max() < 1e-5


def with_openvino(*words):
    """Run medinfer in the environment that has OpenVINO's onnxruntime."""
    program = BUILD / OPENVINO
    if not program.exists():
        pytest.skip(f"{program} is not there: make test-peers installs it")
    return subprocess.run([program, "-m", "medinfer", *map(str, words)], capture_output=True, text=True, check=False)


def test_medinfer_on_openvino_answers_as_on_the_cpu_and_takes_the_graph(folder, images, wanted):
    told = json.loads(with_openvino("info", folder / "model.onnx", "--provider", "openvino", "--json").stdout)
    assert told["runs"]["provider"] == "openvino"
    assert set(told["runs"]["nodes"]) == {"openvino"}
    assert with_openvino("verify", folder / "model.onnx", "--provider", "openvino").returncode == 0
    done = with_openvino(*images, "-m", folder / "model.onnx", "--provider", "openvino", "--format", "jsonl")
    rows = [list(json.loads(line)["probabilities"].values()) for line in done.stdout.splitlines()]
    assert np.abs(rows - wanted).max() < 1e-5


def test_bf16_runs_where_the_processor_has_it_and_is_refused_elsewhere(folder):
    done = with_openvino("verify", folder / "model.onnx", "--provider", "openvino", "--bf16")
    if set(Path("/proc/cpuinfo").read_text().split()).isdisjoint(("avx512_bf16", "amx_bf16", "bf16")):
        assert done.returncode == 5
        assert "no bf16" in done.stderr
    else:
        assert "(bf16)" in done.stdout


def test_onnxruntime_node_fed_raw_pixels_agrees(folder, wanted, pixels):
    (folder / "pixels.raw").write_bytes(pixels.tobytes())
    found = ask(
        "node", NODE, "ask_node.mjs", folder / "model.onnx", folder / "pixels.raw", *pixels.shape, cwd=BUILD / "node"
    )
    assert np.abs(found["probabilities"] - wanted).max() < 1e-5
