"""`load` and `Model`: the runtime's front door."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from medinfer.choices import OOD_SCORE
from medinfer.errors import ImageError, ModelError, ProviderError, ResourceError, UsageError
from medinfer.graph import HEATMAP, OUTPUTS, as_fed, check_graph, read_contract
from medinfer.imaging import (
    MAX_PIXELS,
    Decoded,
    ImageSource,
    decode,
    has_few_levels,
    preprocess,
    without_resize,
)
from medinfer.prediction import Prediction
from medinfer.providers import Execution, is_out_of_memory, nodes_taken, open_session, reason
from medinfer.spec import Graph
from medinfer.stream import available_cores, chunked, ordered_map

if TYPE_CHECKING:
    import onnxruntime

# Measured: on a CPU more than one image a run costs memory and gains nothing; a device wants batches.
CPU_CHUNK, ACCELERATOR_CHUNK = 1, 32
# What a graph may give beside the usual two outputs, and what a prediction calls it.
FIELDS = {OOD_SCORE: "residual", HEATMAP: "maps"}


def load(
    path: str | os.PathLike[str],
    provider: str = "auto",
    *,
    threads: int | None = None,
    latency: bool = False,
    tf32: bool = False,
    bf16: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Model:
    """Open an exported model.

    Args:
        path: The .onnx file.
        provider: "auto", "cpu", "cuda", "cuda:1", "tensorrt" or "openvino"; never another than the one asked for.
        threads: Images worked on at once by `predict_many`; by default the cores this process may use.
        latency: Give all threads to one image instead: its answer comes sooner, and fewer images a second are done.
        tf32: Let CUDA round matrix products to TF32: faster, and further from the checkpoint.
        bf16: Let OpenVINO round them to bf16, on a processor that can: likewise.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        ModelError: The file is missing, damaged, or carries no contract (SpecError names the field).
        ProviderError: The provider cannot be had.
        UsageError: An argument is out of range.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: {threads} is less than 1")
    threads = threads or available_cores()
    wanted = Execution(provider=provider, threads=threads, latency=latency, tf32=tf32, bf16=bf16)
    return Model(Path(path), wanted, max_pixels=max_pixels)


class Model:
    """An exported classifier, ready to run. Made by `load`.

    Safe to share between threads. A process that inherits it by a fork, or gets it pickled, opens the file again.
    """

    def __init__(self, path: Path, wanted: Execution, *, max_pixels: int) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such file", hint="Export one: medexport onnx ckpt.pt")
        self.path = path
        self._wanted = wanted
        self._max_pixels = max_pixels
        self._open()
        session = self._session
        assert session is not None
        try:
            self.spec = spec = read_contract(session, path)
            check_graph(session, spec, path)
        except UnicodeDecodeError:
            raise ModelError(f"{path}: damaged: a name in it is not UTF-8", hint="Export it again.") from None
        self._input = session.get_inputs()[0].name
        self._buffers = threading.local()
        self.threads = 1 if wanted.latency else wanted.threads
        graph = spec.graph or Graph()
        self.precision: str = self._provider.precision if graph.precision == "fp32" else graph.precision
        self._batch = graph.batch
        self._takes = graph.input
        self._outputs = [*OUTPUTS, *(name for name in FIELDS if name in graph.extra_outputs)]
        self._fields = ["scores", "raw", *(FIELDS[name] for name in self._outputs[2:])]
        accelerated = self._provider.is_accelerator
        self.default_chunk = self._batch or (ACCELERATOR_CHUNK if accelerated else CPU_CHUNK)
        # An accelerator plans anew for every shape, and some graphs take only one.
        self._pads = accelerated or self._batch is not None
        self._most = sys.maxsize
        """Images in one run that memory has held so far."""

    def _open(self) -> None:
        self._session: onnxruntime.InferenceSession | None
        self._session, self._provider = open_session(self.path, self._wanted)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (os.path.abspath(self.path), self.sha256, self._wanted, self._max_pixels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the session and its memory; nothing can be predicted afterwards."""
        self._session = None

    @property
    def provider(self) -> str:
        """The provider that runs it: never another than the one asked for."""
        return str(self._provider)

    @property
    def provider_options(self) -> dict[str, Any]:
        """What onnxruntime was told for it."""
        return dict(self._provider.options)

    @property
    def nodes(self) -> dict[str, int] | None:
        """How many of the graph's nodes each provider runs; None of an onnxruntime that does not tell (before 1.24)."""
        return nodes_taken(self._ready())

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.spec.classes

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, as hexadecimal digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def predict(self, image: ImageSource, *, color: Literal["rgb", "bgr"] = "rgb") -> Prediction:
        """Classify one image: a path, the bytes of a file, or a uint8/uint16 array (H, W) or (H, W, 3).

        Args:
            image: The image.
            color: The channel order of an array; OpenCV's own is "bgr" and must be named.

        Raises:
            ImageError: The image cannot be used; `code` says why.
        """
        prediction = self.predict_batch([image], color=color)[0]
        if prediction.error is not None:
            raise prediction.error
        return prediction

    def predict_batch(self, images: Sequence[ImageSource], *, color: Literal["rgb", "bgr"] = "rgb") -> list[Prediction]:
        """Classify images in one run of the graph; a bad one has its `error` set and spoils no other."""
        return self._run_chunk(images, color=color, size=len(images)) if images else []

    def predict_many(
        self,
        images: Iterable[ImageSource],
        *,
        color: Literal["rgb", "bgr"] = "rgb",
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify any number of images: lazily, in order, in bounded memory, on `threads` cores.

        Args:
            images: Paths, bytes or arrays; taken as they are needed.
            color: The channel order of arrays.
            batch_size: Images in one run of the graph; by default 1 on a CPU, 32 on an accelerator.
        """
        size = self.default_chunk if batch_size is None else batch_size
        if isinstance(images, str | bytes | os.PathLike):
            raise UsageError(f"images: {images!r} is one thing", hint="Pass medinfer.find_images(folder), or a list.")
        if size < 1:
            raise UsageError(f"batch_size: {size} is less than 1")
        run = partial(self._run_chunk, color=color, size=size)
        return (
            prediction
            for predictions in ordered_map(run, chunked(images, size), workers=self.threads)
            for prediction in predictions
        )

    def _run_chunk(self, images: Sequence[ImageSource], *, color: Literal["rgb", "bgr"], size: int) -> list[Prediction]:
        """Take a chunk through everything: read, decode, preprocess into the thread's own buffer, run."""
        if self._takes == "image":
            return [self._run_whole(image, color) for image in images]
        buffer = self._buffer(size)
        filled = 0
        notes: list[ImageError | tuple[str, ...]] = []
        for image in images:
            try:
                decoded = self._read(image, color)
                tensor = preprocess(decoded.pixels, self.spec.input, out=buffer[filled])
            except ImageError as error:
                notes.append(error.with_traceback(None))  # its frames would hold the chunk
            else:
                notes.append(_warnings(decoded, tensor))
                filled += 1
        outputs = self._run(buffer if self._pads else buffer[:filled]) if filled else []
        rows = iter(zip(*outputs, strict=True))
        return [
            Prediction(_source(image), self.classes, error=note)
            if isinstance(note, ImageError)
            else self._judged(_source(image), next(rows), note)
            for image, note in zip(images, notes, strict=True)
        ]

    def _run_whole(self, image: ImageSource, color: Literal["rgb", "bgr"]) -> Prediction:
        """Have the graph itself resize an image."""
        try:
            decoded = self._read(image, color)
            pixels = without_resize(decoded.pixels, self.spec.input)
        except ImageError as error:
            return Prediction(_source(image), self.classes, error=error.with_traceback(None))
        outputs = self._run(pixels[None])
        return self._judged(_source(image), [output[0] for output in outputs], _warnings(decoded, pixels))

    def _judged(self, source: str | None, answers: Iterable[Any], warnings: tuple[str, ...]) -> Prediction:
        """Turn an answer that is no number into an error: a NaN must never look like a class."""
        told = dict(zip(self._fields, answers, strict=True))
        if all(np.isfinite(one).all() for one in told.values()):
            return Prediction(source, self.classes, **told, warnings=warnings)
        return Prediction(
            source, self.classes, error=ImageError("non_finite_output", "the model answered NaN or infinity")
        )

    def _read(self, image: ImageSource, color: Literal["rgb", "bgr"]) -> Decoded:
        if missing := getattr(image, "error", None):  # a member of an archive that could not be read
            raise missing
        return decode(image, self.spec.input, color=color, max_pixels=self._max_pixels)

    def _ready(self) -> onnxruntime.InferenceSession:
        """Return the session; a forked process opens its own, for threads and devices do not survive a fork."""
        if self._session is None:
            raise UsageError(f"{self.path}: the model was closed")
        if self._process != os.getpid():
            self._inherited = self._session  # to destroy it would wait for threads that are not there
            self._open()
        return self._session

    def _run(self, tensors: npt.NDArray[np.uint8]) -> list[Any]:
        """Return the outputs for a chunk, in several runs where the graph or the memory takes fewer at once.

        Raises:
            ModelError: The graph fails.
            ResourceError: Not even one image fits into memory.
            ProviderError: The device was lost.
        """
        session = self._ready()
        while True:
            size = self._batch or min(len(tensors), self._most)
            try:
                runs = [
                    session.run(self._outputs, {self._input: as_fed(tensors[start : start + size], self._takes)})
                    for start in range(0, len(tensors), size)
                ]
            except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no other base
                self._give_up_unless_smaller(error, size)
            else:
                return list(runs[0]) if len(runs) == 1 else [np.concatenate(parts) for parts in zip(*runs, strict=True)]

    def _give_up_unless_smaller(self, error: Exception, size: int) -> None:
        """Halve the runs where memory was too small for one; raise for all else."""
        where = f"{self.path}: fails on a batch of {size} on {self.provider}: {reason(error)}"
        if is_out_of_memory(error):
            if self._batch or size == 1:
                raise ResourceError(where, hint="Free memory on the device, or run with --provider cpu.") from None
            self._most = min(self._most, size // 2)
        elif self._provider.is_accelerator and "CUDA failure" in str(error):
            raise ProviderError(where, hint="See the driver's log; --provider cpu runs without it.") from None
        else:
            raise ModelError(where) from None

    def _buffer(self, size: int) -> npt.NDArray[np.uint8]:
        """Return this thread's input buffer, made once: a fresh one for every image costs page faults."""
        size = -(-size // self._batch) * self._batch if self._batch else size
        buffer: npt.NDArray[np.uint8] | None = getattr(self._buffers, "pixels", None)
        if buffer is None or len(buffer) != size:
            spec = self.spec.input
            buffer = np.zeros((size, spec.height, spec.width, spec.channels), np.uint8)
            self._buffers.pixels = buffer
        return buffer


def _reopen(path: str, sha256: str, wanted: Execution, max_pixels: int) -> Model:
    """Open what was pickled; raises ModelError if the file is another by now."""
    model = Model(Path(path), wanted, max_pixels=max_pixels)
    if model.sha256 != sha256:
        raise ModelError(f"{path}: not the file that was pickled", hint="It was replaced meanwhile.")
    return model


def _warnings(decoded: Decoded, tensor: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    """Return what a reader of the answer should know: what decoding found, and whether the tensor is nearly flat."""
    return (*decoded.warnings, "few_levels") if has_few_levels(tensor) else decoded.warnings


def _source(image: ImageSource) -> str | None:
    """Return what an image is called: its path, or the name that a member of an archive carries."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else getattr(image, "source", None)
