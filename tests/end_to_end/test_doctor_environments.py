"""`medinfer doctor` in environments made by pip: its verdict, and its own line, run as it stands, mends them."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from medinfer.providers import DRIVER

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
UNREACHABLE = ("No matching distribution", "connection", "Connection")


class Environment:
    """A virtual environment that is active, as for somebody who typed `source bin/activate`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(folder)}
        self.variables["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, shell=True, env=self.variables, capture_output=True, text=True, timeout=900)

    def pip(self, words: str) -> None:
        done = self.shell(f"pip install --quiet --no-deps {words}")
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr

    def doctor(self) -> tuple[int, str]:
        done = self.shell("medinfer doctor")
        print(done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    def mend(self, line: str) -> None:
        done = self.shell(line)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of what all environments share: all that the runtime and an onnxruntime need but onnxruntime."""
    folder = tmp_path_factory.mktemp("base")
    needed = ["numpy", "opencv-python-headless", "simplejpeg", "pillow", "click"]
    needed += ["flatbuffers", "packaging", "protobuf"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *needed]
    done = subprocess.run([*command, "-c", ROOT / "constraints.txt"], capture_output=True, text=True)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip(f"packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def environment(base, wheel, tmp_path):
    """An environment with medonnx and what it needs, and no onnxruntime."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text(f"{base}\n")
    made = Environment(folder)
    made.pip(str(wheel))
    return made


def line_of(text, topic):
    """Return a topic's first line, and the fix below it."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[1:2] == [topic])
    below = next((line for line in lines[at + 1 :] if "fix: " in line or not line.startswith(" ")), "")
    return lines[at].split(maxsplit=2), below.partition("fix: ")[2]


def check_well(environment):
    code, text = environment.doctor()
    assert code == 0
    assert line_of(text, "onnxruntime")[0][0] == "ok"
    assert line_of(text, "onnxruntime")[1] == ""
    assert line_of(text, "cpu")[0] == ["ok", "cpu", "ran a model"]
    assert text.endswith("Models run here on: cpu.\n")


@pytest.fixture(scope="module")
def without_driver():
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return
    pytest.skip("an NVIDIA driver is here: the line would fetch CUDA")


def test_the_build_for_the_cpu_is_well(environment, without_driver):
    environment.pip("onnxruntime")
    check_well(environment)


def test_the_build_for_cuda_without_a_driver_runs_on_the_cpu_and_the_line_changes_it_for_the_smaller(
    environment, without_driver
):
    environment.pip("onnxruntime-gpu")
    code, text = environment.doctor()
    assert code == 0
    (status, _, why), fix = line_of(text, "cuda")
    assert (status, why) == ("note", f"no NVIDIA driver on this machine ({DRIVER} cannot be loaded)")
    assert fix == 'pip uninstall -y onnxruntime-gpu && pip install "medonnx[cpu]"'
    environment.mend(fix)
    check_well(environment)
    assert "\nnote   cuda" not in environment.doctor()[1]


def test_both_builds_are_wrong_and_the_line_leaves_one_that_works(environment, without_driver):
    environment.pip("onnxruntime")
    environment.pip("onnxruntime-gpu")
    code, text = environment.doctor()
    assert code == 5
    (status, _, why), fix = line_of(text, "onnxruntime")
    assert status == "wrong"
    assert "overwrite each other" in why
    assert fix == 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "medonnx[cpu]"'
    environment.mend(fix)
    check_well(environment)


def test_removing_one_of_both_by_hand_leaves_nothing_that_works_and_the_line_mends_that(environment, without_driver):
    """What most people do first: the other's files are gone with it."""
    environment.pip("onnxruntime")
    environment.pip("onnxruntime-gpu")
    environment.mend("pip uninstall -y onnxruntime")
    code, text = environment.doctor()
    assert code == 5
    (status, _, _), fix = line_of(text, "onnxruntime")
    assert status == "wrong"
    environment.mend(fix)
    check_well(environment)


def test_no_build_at_all_is_wrong_and_the_line_installs_one(environment, without_driver):
    code, text = environment.doctor()
    assert code == 5
    assert text.endswith("No model runs here.\n")
    (status, _, why), fix = line_of(text, "onnxruntime")
    assert (status, why) == ("wrong", "not installed")
    assert fix == 'pip install "medonnx[cpu]"'
    environment.mend(fix)
    check_well(environment)
    done = environment.shell("medinfer doctor --json")
    assert json.loads(done.stdout)["passes"] is True
