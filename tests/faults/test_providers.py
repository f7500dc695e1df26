"""The faults of providers, row by row. Where no GPU is at hand a stand-in fails as onnxruntime does there."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from tests.faults.files import encode, noise

import medinfer
from medinfer import stream
from medinfer.errors import ModelError, ProviderError, ResourceError, UsageError
from medinfer.providers import Execution, Provider, find_provider

# What onnxruntime says of a device: of its memory, and of its loss.
NO_MEMORY = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 205520896"
LOST = "CUDA failure 719: unspecified launch failure ; GPU=0"
NOT_TESTED = {4: "two onnxruntimes in one environment: tests/medinfer/test_doctor.py builds such environments"}


class Device:
    """Stands in for a session on a device that holds so many images, and breaks after so many runs."""

    def __init__(self, session, holds=1000, lives=1000):
        self.session, self.holds, self.lives, self.sizes = session, holds, lives, []

    def run(self, names, fed):
        (tensor,) = fed.values()
        self.sizes.append(len(tensor))
        if len(self.sizes) > self.lives:
            raise RuntimeError(LOST)
        if len(tensor) > self.holds:
            raise RuntimeError(NO_MEMORY)
        return self.session.run(names, fed)


@pytest.fixture
def opened(model_file):
    return medinfer.load(model_file(), "cpu", threads=1)


@pytest.fixture
def images():
    return [noise(20, 20 + step) for step in range(8)]


def cuda_works(path):
    try:
        return medinfer.load(path, "cuda").provider == "cuda"
    except ProviderError:
        return False


def test_p1_a_provider_that_the_build_lacks_ends_with_5_and_the_line_that_installs_it(run, model_file, tmp_path):
    lacking = "import onnxruntime; onnxruntime.get_available_providers = lambda: ['CPUExecutionProvider']"
    for provider, extra in (("cuda", "gpu"), ("tensorrt", "gpu"), ("openvino", "openvino")):
        done = run("x.png", "-m", model_file(), "--provider", provider, cwd=tmp_path, before=lacking)
        assert (done.returncode, done.stdout) == (5, b"")
        assert f'pip install "medonnx[{extra}]"'.encode() in done.stderr


def test_p2_a_provider_whose_libraries_do_not_load_is_refused_with_the_loaders_words(model_file, monkeypatch):
    if cuda_works(model_file()):
        pytest.skip("CUDA works here")
    # This process stands for the driver's library: what CUDA needs besides is missing, and onnxruntime takes the CPU.
    monkeypatch.setattr("medinfer.providers.DRIVER", None)
    with pytest.raises(ProviderError) as caught:
        medinfer.load(model_file(), "cuda")
    assert caught.value.exit_code == 5
    assert "pip install" in str(caught.value)


def test_p3_auto_says_and_records_what_it_took(run, model_file, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(noise(20, 20), "PNG"))
    took = "cuda" if cuda_works(model_file()) else "cpu"
    done = run("a.png", "-m", model_file(), "-o", "r.csv", cwd=tmp_path)
    assert f"on {took}" in done.stderr.decode()
    assert f'"provider": "{took}"' in (tmp_path / "r.csv.meta.json").read_text()


def test_p5_p6_memory_that_runs_out_halves_the_batch_and_changes_no_answer(opened, images, monkeypatch):
    """Whether the model itself or another program has taken it."""
    wanted = [one.raw for one in opened.predict_batch(images)]
    device = Device(opened._session, holds=3)
    monkeypatch.setattr(opened, "_session", device)
    np.testing.assert_allclose([one.raw for one in opened.predict_batch(images)], wanted, atol=1e-4)
    assert device.sizes == [8, 4, 2, 2, 2, 2]
    device.holds = 0
    with pytest.raises(ResourceError) as caught:
        opened.predict(images[0])
    assert caught.value.exit_code == 7


def test_p7_a_model_serves_in_a_pool_of_processes(opened, images):
    wanted = [one.raw for one in map(opened.predict, images)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_allclose([one.raw for one in pool.map(opened.predict, images)], wanted, atol=1e-4)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system tells no affinity")
def test_p8_as_many_threads_as_cores_are_allowed(model_file, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(stream, "_cgroup_quota", lambda: None)
    assert medinfer.load(model_file(), "cpu").threads == 64
    monkeypatch.setattr(stream, "_cgroup_quota", lambda: 2.0)
    assert medinfer.load(model_file(), "cpu").threads == 2
    assert medinfer.load(model_file(), "cpu", threads=3).threads == 3


@pytest.mark.parametrize("name", ["directml", "coreml", "rocm"])
def test_p9_other_providers_are_refused_by_name_and_those_known_run_in_full_precision(name, model_file):
    with pytest.raises(UsageError, match="is not one of auto, cpu, cuda, tensorrt, openvino"):
        medinfer.load(model_file(), name)
    assert find_provider(Execution(provider="cuda")).options["use_tf32"] == 0
    assert find_provider(Execution(provider="openvino")).precision == "fp32"


def test_p10_a_device_that_is_lost_ends_with_5_and_what_was_answered_stays(opened, images, monkeypatch):
    monkeypatch.setattr(opened, "_session", Device(opened._session, lives=3))
    monkeypatch.setattr(opened, "_provider", Provider("cuda"))
    seen, found = opened.predict_many(images, batch_size=1), []
    with pytest.raises(ProviderError) as caught:
        found.extend(seen)
    assert caught.value.exit_code == 5
    assert "--provider cpu" in str(caught.value)
    assert len(found) == 3


def test_p10_a_fault_of_the_graph_is_no_fault_of_the_device(opened, images, monkeypatch):
    monkeypatch.setattr(opened, "_session", Device(opened._session, lives=0))
    with pytest.raises(ModelError):  # on the CPU
        opened.predict(images[0])


def test_every_fault_of_providers_is_tested():
    here = "".join(vars(sys.modules[__name__]))
    tested = {number for number in range(1, 11) if f"_p{number}_" in here}
    assert tested | set(NOT_TESTED) == set(range(1, 11))
    assert not tested & set(NOT_TESTED)
