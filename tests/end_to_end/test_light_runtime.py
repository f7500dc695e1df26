"""The runtime stands alone: without torch, without onnx, from the wheel, and with light imports."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BLOCKED = """
import sys
for name in ("torch", "torchvision", "onnx", "sklearn", "scipy", "timm", "medtrain", "medexport"):
    sys.modules[name] = None
import medinfer
model = medinfer.load(sys.argv[1], "cpu")
print(model.predict(sys.argv[2]).label)
print(len(list(model.predict_many(medinfer.find_images(sys.argv[2])))))
"""


def test_it_predicts_where_torch_and_onnx_cannot_be_imported(chain):
    image = next((chain / "phantom/test").rglob("*.png"))
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, chain / "ckpt.onnx", image], capture_output=True, text=True, check=True
    )
    label, count = done.stdout.split()
    assert label in ("parasitized", "uninfected")
    assert count == "1"


@pytest.mark.parametrize("package", ["medinfer", "medtrain", "medexport"])
def test_help_and_usage_errors_load_nothing_heavy(package):
    code = f"""
import sys, {package}.cli as c
try:
    c.cli.main(["--help"], standalone_mode=False)
except SystemExit:
    pass
heavy = {{"numpy", "cv2", "onnxruntime", "torch", "onnx", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_three_packages_whole(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT / parent))
        for parent, package in (("runtime", "medinfer"), ("train", "medtrain"), ("export", "medexport"))
        for path in (ROOT / parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected


def test_the_wheel_alone_gives_the_same_csv(wheel, chain, run, tmp_path):
    """A fresh environment with the extra [cpu] and nothing else."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[cpu]"]
    constrained = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(install, capture_output=True, text=True, env=constrained)
    if done.returncode and ("No matching distribution" in done.stderr or "connection" in done.stderr.lower()):
        pytest.skip(f"packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert "onnxruntime" in installed
    assert not installed & {"torch", "torchvision", "onnx", "scikit-learn"}
    command = ["phantom/test", "--provider", "cpu", "--quiet"]
    light = subprocess.run([tmp_path / "venv/bin/medinfer", *command], cwd=chain, capture_output=True, text=True)
    assert light.returncode == 0, light.stderr
    assert light.stdout == run("medinfer", *command, cwd=chain).stdout
    untrained = subprocess.run(
        [tmp_path / "venv/bin/medtrain", "fit", "phantom"], cwd=chain, capture_output=True, text=True
    )
    assert untrained.returncode == 2
    assert 'pip install "medonnx[train]"' in untrained.stderr
