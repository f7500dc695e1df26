from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import medinfer
from medinfer.cli import cli
from medinfer.errors import ModelError, ProviderError, ResourceError, UsageError
from medinfer.providers import Execution, Provider, find_provider


def refused(path, provider, kind):
    with pytest.raises(kind) as caught:
        medinfer.load(path, provider)
    return caught.value


def cuda_works(path):
    try:
        return medinfer.load(path, "cuda").provider == "cuda"
    except ProviderError:
        return False


@pytest.mark.parametrize("provider", ["cuda", "cuda:1", "tensorrt"])
def test_a_gpu_that_cannot_be_had_is_an_error_that_says_what_to_do(provider, tiny_model):
    if cuda_works(tiny_model):
        pytest.skip("CUDA works here")
    error = refused(tiny_model, provider, ProviderError)
    assert error.exit_code == 5
    assert str(error).startswith(provider)
    assert "pip install" in str(error)
    assert "--provider cpu" in str(error)


def test_a_provider_that_this_onnxruntime_lacks_is_an_error_that_names_its_extra(tiny_model, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    error = refused(tiny_model, "openvino", ProviderError)
    assert 'pip install "medonnx[openvino]"' in str(error)


@pytest.mark.parametrize("provider", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda 0", "openvino:1"])
def test_an_unknown_provider_is_a_usage_error_that_lists_the_known(provider, tiny_model):
    error = refused(tiny_model, provider, UsageError)
    assert error.exit_code == 2
    assert "auto, cpu, cuda, tensorrt, openvino" in str(error)


def test_what_was_obtained_is_told(tiny_model):
    assert medinfer.load(tiny_model, "cpu").provider == "cpu"
    assert medinfer.load(tiny_model).provider == ("cuda" if cuda_works(tiny_model) else "cpu")


@pytest.mark.parametrize("latency", [False, True])
def test_openvino_computes_in_what_was_asked_for_on_the_threads_given(latency, monkeypatch):
    monkeypatch.setattr("medinfer.providers._multiplies_bf16", lambda: True)
    exact = find_provider(Execution(provider="openvino", threads=3, latency=latency))
    told = json.loads(exact.options["load_config"])["CPU"]
    assert told["INFERENCE_PRECISION_HINT"] == "f32"
    assert (told["INFERENCE_NUM_THREADS"], told["NUM_STREAMS"]) == ("3", "1" if latency else "3")
    rounded = find_provider(Execution(provider="openvino", bf16=True))
    assert json.loads(rounded.options["load_config"])["CPU"]["INFERENCE_PRECISION_HINT"] == "bf16"
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")


def test_bf16_is_refused_where_the_processor_can_only_imitate_it(monkeypatch):
    monkeypatch.setattr("medinfer.providers._multiplies_bf16", lambda: False)
    with pytest.raises(ProviderError, match="no bf16"):
        find_provider(Execution(provider="openvino", bf16=True))
    assert find_provider(Execution(provider="cpu", bf16=True)).precision == "fp32"


def test_tf32_is_off_unless_it_is_allowed():
    assert find_provider(Execution(provider="cuda:1")).options == {
        "device_id": 1,
        "use_tf32": 0,
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    allowed = find_provider(Execution(provider="cuda", tf32=True))
    assert (allowed.options["use_tf32"], allowed.precision) == (1, "tf32")


def test_info_says_what_a_provider_was_told_and_what_it_took(tiny_model):
    told = CliRunner().invoke(cli, ["info", str(tiny_model), "--provider", "cpu", "--json"])
    runs = json.loads(told.output)["runs"]
    assert runs["provider"] == "cpu"
    assert runs["nodes"] == {"cpu": len(onnx.load(tiny_model).graph.node)}
    assert "nodes:" in CliRunner().invoke(cli, ["info", str(tiny_model), "--provider", "cpu"]).output
    assert "nodes:" not in CliRunner().invoke(cli, ["info", str(tiny_model)]).output


class Small:
    """A session on a device that holds so many images, in the place of a real one."""

    def __init__(self, session, holds, words="BFCArena::AllocateRawInternal Failed to allocate memory"):
        self.session, self.holds, self.words, self.sizes = session, holds, words, []

    def run(self, names, fed):
        (tensor,) = fed.values()
        self.sizes.append(len(tensor))
        if len(tensor) > self.holds:
            raise RuntimeError(self.words)
        return self.session.run(names, fed)


def test_a_batch_that_memory_cannot_hold_is_halved_until_it_can(tiny_model, picture):
    images = [picture(12, 16, 3, seed=seed) for seed in range(16)]
    model = medinfer.load(tiny_model, "cpu")
    wanted = [one.label for one in model.predict_batch(images)]
    model._session = small = Small(model._session, 3)
    assert [one.label for one in model.predict_batch(images)] == wanted
    assert small.sizes == [16, 8, 4, *[2] * 8]
    small.sizes.clear()
    model.predict_batch(images)
    assert set(small.sizes) == {2}  # it has learnt


def test_one_image_that_memory_cannot_hold_ends_with_7(tiny_model, picture):
    model = medinfer.load(tiny_model, "cpu")
    model._session = Small(model._session, 0)
    with pytest.raises(ResourceError) as caught:
        model.predict_batch([picture(12, 16, 3)] * 4)
    assert caught.value.exit_code == 7


def test_a_device_that_is_lost_ends_with_5_and_another_fault_with_4(tiny_model, picture, monkeypatch):
    model = medinfer.load(tiny_model, "cpu")
    session = model._session
    model._session = Small(session, 0, "the graph is wrong")
    with pytest.raises(ModelError):
        model.predict(picture(12, 16, 3))
    monkeypatch.setattr(model, "_provider", Provider("cuda"))
    model._session = Small(session, 0, "CUDA failure 719: unspecified launch failure")
    with pytest.raises(ProviderError):
        model.predict(picture(12, 16, 3))


RESIDENT = """
import sys, numpy, cv2, onnxruntime, medinfer
resident = lambda: int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmRSS"))) * 1024
before = resident()
model = medinfer.load(sys.argv[1], "cpu")
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc hands its free memory back")
def test_opening_a_model_keeps_no_second_copy_of_its_weights(tiny_model, tmp_path):
    """Sixteen factors of 4 MB before the last product, as many as a network has layers."""
    model = onnx.load(tiny_model)
    sides = [3, *[1000] * 17, 3]
    factors = [np.full(shape, 1e-3, np.float32) for shape in pairwise(sides)]
    last = next(i for i, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    for i, factor in enumerate(factors):
        model.graph.initializer.append(onnx.numpy_helper.from_array(factor, f"factor {i}"))
        product = helper.make_node("MatMul", [f"product {i - 1}" if i else "features", f"factor {i}"], [f"product {i}"])
        model.graph.node.insert(last + i, product)
    model.graph.node[-2].input[0] = f"product {len(factors) - 1}"
    path = tmp_path / "heavy.onnx"
    onnx.save(model, path)
    done = subprocess.run([sys.executable, "-c", RESIDENT, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < sum(factor.nbytes for factor in factors)
