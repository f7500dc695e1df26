"""`load` and `Model`: the runtime's front door."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medinfer.choices import OOD_SCORE
from medinfer.errors import ImageError, ModelError, UsageError
from medinfer.images import MAX_PIXELS, ImageSource, read_image
from medinfer.pixels import preprocess
from medinfer.prediction import Prediction
from medinfer.providers import Provider, open_session, reason
from medinfer.spec import SPEC_KEY, ModelSpec
from medinfer.stream import available_cores, chunked, ordered_map

if TYPE_CHECKING:
    import onnxruntime

MAX_SPEC_BYTES = 64 << 20
# Measured: on a CPU more than one image a run costs memory and gains nothing; a device wants batches.
CPU_CHUNK, ACCELERATOR_CHUNK = 1, 32
# What Hugging Face's tools call an image on [0, 1]; others take any name.
INPUTS = {"pixels": "image", "float": "pixel_values"}
OUTPUTS = ["probabilities", "logits"]


def load(
    path: str | os.PathLike[str],
    provider: str = "auto",
    *,
    threads: int | None = None,
    latency: bool = False,
    tf32: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Model:
    """Open an exported model.

    Args:
        path: The .onnx file.
        provider: "auto", "cpu", "cuda", "cuda:1", "tensorrt" or "openvino"; never another than the one asked for.
        threads: Images worked on at once by `predict_many`; by default the cores this process may use.
        latency: Give all threads to one image instead: its answer comes sooner, and fewer images a second are done.
        tf32: Let CUDA round matrix products to TF32: faster, and further from the checkpoint.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        ModelError: The file is missing, damaged, or carries no contract (SpecError names the field).
        ProviderError: The provider cannot be had.
        UsageError: An argument is out of range.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: {threads} is less than 1")
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file", hint="Export one: medexport onnx ckpt.pt")
    threads = threads or available_cores()
    session, obtained = open_session(file, provider, tf32=tf32, threads_per_run=threads if latency else 1)
    spec = _read_spec(session, file)
    _check_graph(session, spec, file)
    return Model(session, spec, obtained, file, threads=1 if latency else threads, max_pixels=max_pixels)


class Model:
    """An exported classifier, ready to run. Safe to share between threads. Made by `load`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: ModelSpec,
        provider: Provider,
        path: Path,
        *,
        threads: int,
        max_pixels: int,
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._buffers = threading.local()
        self._max_pixels = max_pixels
        self.spec = spec
        self.provider = str(provider)
        self.path = path
        self.threads = threads
        self.precision: str = spec.graph.precision if spec.graph else "fp32"
        if self.precision == "fp32" and provider.options.get("use_tf32"):
            self.precision = "tf32"
        self._batch = spec.graph.batch if spec.graph else None
        self._takes = spec.graph.input if spec.graph else "pixels"
        self._outputs = [*OUTPUTS, *([OOD_SCORE] if spec.graph and OOD_SCORE in spec.graph.extra_outputs else [])]
        self.default_chunk = self._batch or (ACCELERATOR_CHUNK if provider.is_accelerator else CPU_CHUNK)
        # An accelerator plans anew for every shape, and some graphs take only one.
        self._pads = provider.is_accelerator or self._batch is not None

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
        buffer = self._buffer(size)
        filled = 0
        errors: list[ImageError | None] = []
        for image in images:
            try:
                if missing := getattr(image, "error", None):  # a member of an archive that could not be read
                    raise missing
                pixels = read_image(image, self.spec.input, color=color, max_pixels=self._max_pixels)
                preprocess(pixels, self.spec.input, out=buffer[filled])
            except ImageError as error:
                errors.append(error)
            else:
                errors.append(None)
                filled += 1
        outputs = self._run(buffer if self._pads else buffer[:filled]) if filled else []
        rows = iter(zip(*outputs, strict=True))
        return [
            Prediction(_source(image), self.classes, error=error)
            if error
            else _judge(Prediction(_source(image), self.classes, *next(rows)))
            for image, error in zip(images, errors, strict=True)
        ]

    def _run(self, tensors: npt.NDArray[np.uint8]) -> list[Any]:
        """Return the outputs for a chunk, in several runs where the graph takes fewer at once; raises ModelError."""
        size = self._batch or len(tensors)
        try:
            runs = [
                self._session.run(self._outputs, {self._input: as_fed(tensors[start : start + size], self._takes)})
                for start in range(0, len(tensors), size)
            ]
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no other base
            raise ModelError(f"{self.path}: fails on a batch of {size}: {reason(error)}") from None
        return list(runs[0]) if len(runs) == 1 else [np.concatenate(parts) for parts in zip(*runs, strict=True)]

    def _buffer(self, size: int) -> npt.NDArray[np.uint8]:
        """Return this thread's input buffer, made once: a fresh one for every image costs page faults."""
        size = -(-size // self._batch) * self._batch if self._batch else size
        buffer: npt.NDArray[np.uint8] | None = getattr(self._buffers, "pixels", None)
        if buffer is None or len(buffer) != size:
            spec = self.spec.input
            buffer = np.zeros((size, spec.height, spec.width, spec.channels), np.uint8)
            self._buffers.pixels = buffer
        return buffer


def as_fed(tensors: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[Any]:
    """Return pixels, uint8 (n, H, W, C), as a graph takes them: as they are, or float32 (n, C, H, W) on [0, 1]."""
    if kind == "pixels":
        return tensors
    return np.ascontiguousarray(tensors.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _source(image: ImageSource) -> str | None:
    """Return what an image is called: its path, or the name that a member of an archive carries."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else getattr(image, "source", None)


def _judge(prediction: Prediction) -> Prediction:
    """Turn an answer that is no number into an error: a NaN must never look like a class."""
    numbers = (prediction.scores, prediction.raw, prediction.residual)
    if all(np.isfinite(one).all() for one in numbers if one is not None):
        return prediction
    error = ImageError("non_finite_output", "the model answered NaN or infinity")
    return Prediction(prediction.source, prediction.classes, error=error)


def _read_spec(session: onnxruntime.InferenceSession, path: Path) -> ModelSpec:
    text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    if text is None:
        hint = "Only files that medexport wrote say how to feed them."
        raise ModelError(f"{path}: no {SPEC_KEY} in its metadata", hint=hint)
    if len(text) > MAX_SPEC_BYTES:
        raise ModelError(f"{path}: a contract of {len(text)} bytes; at most {MAX_SPEC_BYTES} are read")
    return ModelSpec.loads(text)


def _check_graph(session: onnxruntime.InferenceSession, spec: ModelSpec, path: Path) -> None:
    """Refuse a graph that is not the one its contract describes."""
    kind = spec.graph.input if spec.graph else "missing"
    if spec.graph is None or kind not in ("pixels", "float"):
        raise ModelError(f"{path}: graph.input is {kind!r}; this medinfer runs 'pixels' and 'float'")
    inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
    size = [spec.input.height, spec.input.width]
    channels = spec.input.channels
    wanted = ("tensor(uint8)", [*size, channels]) if kind == "pixels" else ("tensor(float)", [channels, *size])
    if list(inputs.values()) != [wanted]:
        raise ModelError(f"{path}: its inputs are {inputs}, its contract says {wanted}")
    batch = session.get_inputs()[0].shape[0]
    if (batch if isinstance(batch, int) else None) != spec.graph.batch:
        raise ModelError(f"{path}: its batch size is {batch}, its contract says {spec.graph.batch or 'any'}")
    outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    absent = [name for name in spec.graph.extra_outputs if name not in outputs]
    if absent:
        raise ModelError(f"{path}: its contract promises outputs that it lacks: {', '.join(absent)}")
    shapes = {name: [len(spec.classes)] for name in OUTPUTS}
    shapes |= {OOD_SCORE: []} if OOD_SCORE in spec.graph.extra_outputs else {}
    for name, shape in shapes.items():
        kind, found = outputs.get(name, ("missing", []))
        if kind != "tensor(float)" or not found or found[1:] != shape:
            raise ModelError(f"{path}: output {name!r} is {kind} {found}, not float {[batch, *shape]}")
