"""A model in which every pixel counts, and commands in child processes, with or without a right to everything."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tests.faults import samples

import medinfer
from medinfer.spec import InputSpec

PR_CAPBSET_DROP, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2
COMMAND = "import sys; {before}\nfrom medinfer.cli import main; sys.argv[0] = 'medinfer'; main()"


def _as_anybody():
    """Let go, before the program starts, of root's right to read what it may not."""
    for right in (DAC_OVERRIDE, DAC_READ_SEARCH):
        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
            os._exit(99)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """Path of a model of three classes in which every pixel counts; fields of its contract's input may be given."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def path_of(fields="{}"):
        given = {"height": 12, "width": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3, **json.loads(fields)}
        contract = samples.spec(input=InputSpec.from_json(given))
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        path.write_bytes(samples.model(samples.every_pixel, contract=contract))
        return path

    return lambda **fields: path_of(json.dumps(fields))


@pytest.fixture(scope="session")
def model(model_file):
    """That model, opened: `model(min_side=8)`."""
    opened = cache(lambda path: medinfer.load(path, "cpu", threads=1))
    return lambda **fields: opened(model_file(**fields))


@pytest.fixture(scope="session")
def run(model_file):
    """Run `medinfer` as a user does, and not as root where asked; `before` is Python to be run first."""

    def run(*words, cwd, before="", unprivileged=False):
        as_anybody = _as_anybody if unprivileged and os.geteuid() == 0 else None
        done = subprocess.run(
            [sys.executable, "-c", COMMAND.format(before=before), *map(os.fspath, words)],
            cwd=cwd,
            capture_output=True,
            timeout=120,
            preexec_fn=as_anybody,
            check=False,
        )
        if done.returncode == 99:
            pytest.skip("this root may not give up its rights")
        assert b"Traceback" not in done.stderr
        assert b"Internal error" not in done.stderr
        return done

    return run


@pytest.fixture
def records(run, model_file):
    """Classify what lies in a folder; returns the exit code, {name: code of its error, or "answer"}, what was said."""

    def records(folder: Path, *words, **options):
        given = words or (".",)
        done = run(*given, "-m", model_file(), "--provider", "cpu", "--format", "jsonl", cwd=folder, **options)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        said = {line["path"].removeprefix("./"): line.get("error", {"code": "answer"})["code"] for line in lines}
        assert len(said) == len(lines)  # one record for each input
        return done.returncode, said, done.stderr.decode()

    return records
