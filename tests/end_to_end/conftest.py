"""A small run of the whole chain, made once by the commands themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medtrain.phantom import write_phantom

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command of ours as a user does: a child process, its exit code and output kept."""

    def run_command(*words: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        script = Path(sys.executable).with_name(str(words[0]))
        command = [str(script), *map(str, words[1:])]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, "NO_COLOR": "1"}
        )

    return run_command


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A folder with phantom/, ckpt.pt and ckpt.onnx: few images and epochs, for speed."""
    folder = tmp_path_factory.mktemp("chain")
    write_phantom(folder / "phantom", train=160, test=40)
    fitted = run("medtrain", "fit", "phantom", "--recipe", "phantom", "--epochs", 3, cwd=folder)
    assert fitted.returncode == 0, fitted.stderr
    exported = run("medexport", "onnx", "ckpt.pt", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))
