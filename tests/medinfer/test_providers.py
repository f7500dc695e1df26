from __future__ import annotations

import ctypes
import subprocess
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

import medinfer
from medinfer.errors import ProviderError, UsageError


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
