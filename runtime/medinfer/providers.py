"""Provider names -> an onnxruntime session that really runs there.

onnxruntime falls back to the CPU in silence; here the provider asked for is the provider obtained, or ProviderError.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medinfer.errors import MissingExtraError, ModelError, ProviderError, UsageError

if TYPE_CHECKING:
    import onnxruntime

# name -> (onnxruntime's name, the extra that brings it)
KNOWN = {
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "gpu"),
    "openvino": ("OpenVINOExecutionProvider", "openvino"),
}
NEEDS_NVIDIA = ("cuda", "tensorrt")
# What stands before onnxruntime's own words: the file, and a place in its sources with a C++ signature.
ORIGIN = re.compile(r"^Load model from .*? failed:|\S+\.(?:cc|h|cu):\d+ .*?\) ")
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a graph is wished to run."""

    provider: str = "auto"
    threads: int = 1
    latency: bool = False
    """Whether the threads share one image, or take one each."""
    tf32: bool = False
    bf16: bool = False
    """What may be rounded, where the provider can."""


@dataclass(frozen=True)
class Provider:
    """One execution provider with its options."""

    name: str
    device: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    """What it rounds the products of an fp32 graph to."""

    @property
    def execution_provider(self) -> str:
        """onnxruntime's name for it."""
        return KNOWN[self.name][0]

    @property
    def is_accelerator(self) -> bool:
        """Whether work is sent to a device, so that larger batches pay."""
        return self.name in NEEDS_NVIDIA

    def __str__(self) -> str:
        return f"{self.name}:{self.device}" if self.device else self.name


def find_provider(wanted: Execution) -> Provider:
    """Return what `cpu`, `cuda`, `cuda:1`, `tensorrt` or `openvino` means.

    Raises:
        UsageError: Another name.
        ProviderError: bf16 is wished for, and this processor can only imitate it.
    """
    name, colon, number = wanted.provider.partition(":")
    if name not in KNOWN or (colon and not (name in NEEDS_NVIDIA and number.isdecimal())):
        names = ", ".join(["auto", *KNOWN, "cuda:N"])
        raise UsageError(f"provider: {wanted.provider!r} is not one of {names}")
    device = int(number) if colon else 0
    if name == "cuda":
        # TF32 is onnxruntime's default on Ampere and later and moves logits by up to 1e-2: off unless asked for. Its
        # exhaustive search for the fastest convolutions takes up to a second for each shape (onnxruntime #19838).
        options = {"device_id": device, "use_tf32": int(wanted.tf32), "cudnn_conv_algo_search": "HEURISTIC"}
        return Provider(name, device, options, "tf32" if wanted.tf32 else "fp32")
    if name == "openvino":
        return Provider(name, device, _openvino_options(wanted), "bf16" if wanted.bf16 else "fp32")
    return Provider(name, device, {"device_id": device} if name == "tensorrt" else {})


def _openvino_options(wanted: Execution) -> dict[str, Any]:
    """Return options by which OpenVINO computes in what is asked for, not in what it finds fastest."""
    if wanted.bf16 and not _multiplies_bf16():
        raise ProviderError(
            "openvino: this processor has no bf16 arithmetic; OpenVINO would imitate it, slower than fp32",
            hint="Leave --bf16 out.",
        )
    processor = {
        "INFERENCE_PRECISION_HINT": "bf16" if wanted.bf16 else "f32",
        "INFERENCE_NUM_THREADS": str(wanted.threads),
        "NUM_STREAMS": "1" if wanted.latency else str(wanted.threads),
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": processor})}


def _multiplies_bf16() -> bool:
    """Tell whether the processor says so (Linux); elsewhere it is believed."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return True
    return not words.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def open_session(path: Path | bytes, wanted: Execution) -> tuple[onnxruntime.InferenceSession, Provider]:
    """Open a model on the provider asked for; `auto` takes CUDA where it works, else the CPU.

    Raises:
        UsageError: An unknown provider name.
        MissingExtraError: No onnxruntime is installed.
        ProviderError: The provider cannot be had.
        ModelError: onnxruntime refuses the file.
    """
    if wanted.provider == "auto":
        with contextlib.suppress(ProviderError):
            cuda = replace(wanted, provider="cuda")
            return _open(path, find_provider(cuda), cuda)
        wanted = replace(wanted, provider="cpu")
    return _open(path, find_provider(wanted), wanted)


def _open(path: Path | bytes, provider: Provider, wanted: Execution) -> tuple[onnxruntime.InferenceSession, Provider]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    _check_available(onnxruntime, provider)
    try:
        session = onnxruntime.InferenceSession(
            _readable(path),
            _session_options(onnxruntime, wanted.threads if wanted.latency else 1),
            providers=[(provider.execution_provider, provider.options)],
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no other base
        name = path if isinstance(path, Path) else "the model"
        raise ModelError(f"{name}: onnxruntime refuses it: {reason(error)}", hint=_cure(str(error))) from None
    if session.get_providers()[0] != provider.execution_provider:
        raise ProviderError(f"{provider}: {_missing_library(onnxruntime, provider)}", hint=_install_hint(provider))
    _give_back_memory()
    return session, provider


def nodes_taken(session: onnxruntime.InferenceSession) -> dict[str, int] | None:
    """Return how many of the graph's nodes each provider runs; None of an onnxruntime that does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    short = {full: name for name, (full, _) in KNOWN.items()}
    taken: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        taken[short.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(taken)


def _give_back_memory() -> None:
    """Hand freed memory back to the kernel: opening a model leaves twice its weights free in glibc's heap.

    Measured: resnet18 then holds 115 MB instead of 210, in 4 ms, which is what a stored optimised graph holds.
    """
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _readable(path: Path | bytes) -> str | bytes:
    """Return a path as onnxruntime takes it, or the file's bytes where the name is not UTF-8."""
    if isinstance(path, bytes):
        return path
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return os.fspath(path)


def _session_options(onnxruntime: Any, threads_per_run: int) -> Any:
    """By default a thread a run: the engine runs as many at once as there are cores, which does more in all.

    Measured on two cores: two threads a run answer in 0.6 to 0.8 of the time, and two such runs at once do 0.75 to 0.85
    of the images.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_per_run
    options.inter_op_num_threads = 1
    # Threads that wait by spinning answer sooner; they cost other runs their cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads_per_run > 1)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # A model is one file: external data is looked for in a place that can hold no file, and so is refused.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.log_severity_level = 4  # what goes wrong is raised and told once
    return options


def _check_available(onnxruntime: Any, provider: Provider) -> None:
    if provider.execution_provider not in onnxruntime.get_available_providers():
        version = onnxruntime.__version__
        raise ProviderError(
            f"{provider}: the onnxruntime {version} installed here has no {provider.execution_provider}",
            hint=f"{_install_hint(provider)} Or run with --provider cpu.",
        )
    if provider.name not in NEEDS_NVIDIA:
        return
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        raise ProviderError(
            f"{provider}: no NVIDIA driver on this machine ({DRIVER} cannot be loaded)",
            hint=f"Install the GPU's driver. {_install_hint(provider)} Or run with --provider cpu.",
        ) from None
    # Finds CUDA and cuDNN in the nvidia-* wheels. It prints what it lacks: standard output is for predictions.
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def _missing_library(onnxruntime: Any, provider: Provider) -> str:
    """Return the loader's own words for why the provider did not load."""
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider.name}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return "onnxruntime fell back to the CPU; the GPU may be unsupported or in use"


def _install_hint(provider: Provider) -> str:
    extra = KNOWN[provider.name][1]
    lines = f'pip uninstall -y onnxruntime onnxruntime-gpu; pip install "medonnx[{extra}]"'
    return f"An onnxruntime that has it: {lines}."


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: onnxruntime has no exception of its own for it (onnxruntime #16307)."""
    text = str(error)
    return any(words in text for words in ("Failed to allocate", "out of memory", "ALLOC_FAILED", "bad_alloc"))


def reason(error: Exception) -> str:
    """Return what onnxruntime says, without its codes and source lines."""
    text = str(error).replace("\n", " ").split(" : ", 3)[-1]
    return ORIGIN.sub("", text)[:500].rstrip(" .")


def _cure(text: str) -> str:
    if "xternal" in text:
        return "A model must be one file: save it with its weights inside."
    if "IR version" in text or "till opset" in text:
        return "Upgrade onnxruntime: pip install -U onnxruntime"
    return "Export it again: medexport onnx ckpt.pt"
