"""A run that was killed goes on as if nothing had happened, to the last bit."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

MEDTRAIN = str(Path(sys.executable).with_name("medtrain"))
COMMAND = ["fit", "--recipe", "phantom", "--epochs", "3", "--save-every", "0"]


def weights_sha256(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def uninterrupted(chain, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    done = run("medtrain", *COMMAND, chain / "phantom", "--out", out, cwd=chain)
    assert done.returncode == 0, done.stderr
    return out


def kill_after(seconds, chain, out, number=signal.SIGKILL):
    """Start a run and kill it so long after its first save; return its exit code."""
    process = subprocess.Popen([MEDTRAIN, *COMMAND, str(chain / "phantom"), "--out", str(out), "--quiet"])
    while not (out / "last.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(number)
    return process.wait()


def assert_resumes_exactly(chain, run, out, uninterrupted):
    done = run("medtrain", *COMMAND, chain / "phantom", "--out", out, "--resume", cwd=chain)
    assert done.returncode == 0, done.stderr
    assert weights_sha256(out / "ckpt.pt") == weights_sha256(uninterrupted / "ckpt.pt")
    last, whole = (torch.load(folder / "last.pt", weights_only=True) for folder in (out, uninterrupted))
    assert last["trainer"]["progress"]["history"] == whole["trainer"]["progress"]["history"]
    for name, value in whole["trainer"]["classifier"].items():
        assert torch.equal(last["trainer"]["classifier"][name], value)


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(chain, run, tmp_path, uninterrupted):
    assert kill_after(0.1, chain, tmp_path) == -signal.SIGKILL
    progress = torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["progress"]
    assert (progress["epoch"], progress["batch"]) < (3, 0)
    assert_resumes_exactly(chain, run, tmp_path, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_at_the_end_of_the_batch(chain, run, tmp_path, uninterrupted, number, code):
    # Saved at the end of each epoch only, were it not for the signal.
    command = [*COMMAND[:-1], "3600"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([MEDTRAIN, *command, str(chain / "phantom"), "--out", str(tmp_path)], stderr=log)
    while not (tmp_path / "last.pt").exists():  # the first epoch is done
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait() == code
    progress = torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["progress"]
    assert progress["batch"] > 0 or progress["epoch"] > 1
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert_resumes_exactly(chain, run, tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6])
def test_killed_at_any_moment_it_ends_with_the_same_weights(chain, run, tmp_path, uninterrupted, seconds):
    kill_after(seconds, chain, tmp_path)
    assert_resumes_exactly(chain, run, tmp_path, uninterrupted)


def test_another_recipe_or_other_data_is_not_resumed(chain, run, tmp_path):
    kill_after(0.0, chain, tmp_path)
    other = run("medtrain", *COMMAND, chain / "phantom", "--out", tmp_path, "--resume", "--seed", 5, cwd=chain)
    assert other.returncode == 2
    assert "another recipe" in other.stderr
    victim = next((chain / "phantom/train/uninfected").glob("*.png"))
    hidden = victim.with_suffix(".hidden")
    os.rename(victim, hidden)
    try:
        fewer = run("medtrain", *COMMAND, chain / "phantom", "--out", tmp_path, "--resume", cwd=chain)
    finally:
        os.rename(hidden, victim)
    assert fewer.returncode == 2
    assert "not the images" in fewer.stderr
