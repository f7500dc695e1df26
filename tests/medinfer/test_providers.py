from __future__ import annotations

import pytest

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
