"""The networks that the suite runs, in every form that a contestant takes, with the answers that they must give."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

import medexport
from benchmarks.corpus import corpus
from benchmarks.settings import Subject
from benchmarks.untrained import classifier
from medexport.build import build_all
from medexport.reference import images_of
from medexport.sidecars import Sidecars
from medexport.source import read_checkpoint
from medinfer.errors import UsageError
from medinfer.imaging import preprocess, read_image
from medinfer.inputs import class_of, find_images
from medinfer.spec import Graph, InputSpec, ModelSpec
from medtrain.checkpoint import Checkpoint, save_checkpoint
from medtrain.network import network_config
from medtrain.recipe import Network

FOLDER = Path("build/suite")
CLASSES = ("glioma", "meningioma", "none", "pituitary")
RGB = InputSpec(height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GRAY = InputSpec(height=70, width=70, color="gray", mean=(0.5,), std=(0.5,))
CHUNK = 32


@dataclass(frozen=True)
class Prepared:
    """A subject with its images and its own folder."""

    name: str
    checkpoint: Path
    images: tuple[str, ...]
    root: Path

    @property
    def folder(self) -> Path:
        """Where its forms lie: another checkpoint, or another exporter, has another folder."""
        exporter = b"".join(path.read_bytes() for path in sorted(Path(medexport.__file__).parent.glob("*.py")))
        digest = hashlib.sha256(self.checkpoint.read_bytes() + exporter).hexdigest()
        return FOLDER / f"{self.name}-{digest[:12]}"

    def form(self, kind: str) -> Path:
        """Return the `checkpoint`, an ONNX file that takes `pixels` or a `float` tensor, or the folder `hf`."""
        if kind == "checkpoint":
            return self.checkpoint
        path = self.folder / (kind if kind == "hf" else f"{kind}.onnx")
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            sidecars = Sidecars(hf=path) if kind == "hf" else Sidecars()
            model = self.folder / "hf.onnx" if kind == "hf" else path
            graph = Graph(input="float" if kind == "float" else "pixels")
            build_all(read_checkpoint(self.checkpoint), model, sidecars, graph=graph, images=images_of(None))
        return path

    @cached_property
    def spec(self) -> ModelSpec:
        """The contract of the checkpoint."""
        return read_checkpoint(self.checkpoint).spec

    @cached_property
    def reference(self) -> npt.NDArray[np.float32]:
        """The checkpoint's logits in torch, (images, classes)."""
        source = read_checkpoint(self.checkpoint)
        rows = []
        for start in range(0, len(self.images), CHUNK):
            chunk = self.images[start : start + CHUNK]
            tensors = [preprocess(read_image(image, self.spec.input), self.spec.input) for image in chunk]
            rows.append(source.logits(np.stack(tensors)))
        return np.concatenate(rows)

    @cached_property
    def labels(self) -> list[str | None]:
        """The class that each image's folder names, if it does."""
        return [class_of(image, self.root, self.spec.classes) for image in self.images]


def prepare(subject: Subject, images: int) -> Prepared:
    """Return a subject ready to run on at most `images` of its images, spread over them.

    Raises:
        UsageError: Its images or its checkpoint are not there.
    """
    if subject.checkpoint:
        checkpoint = Path(subject.checkpoint)
        if not checkpoint.is_file():
            raise UsageError(f"subject {subject.name}: {checkpoint}: no such file", hint="Train it first.")
    else:
        checkpoint = _untrained(subject.name)
    root = _images(subject, read_checkpoint(checkpoint).spec.input)
    found = [str(path) for path in find_images(root.resolve())]
    if not found:
        raise UsageError(f"subject {subject.name}: no images below {root}")
    step = max(1, len(found) // images)
    return Prepared(subject.name, checkpoint.resolve(), tuple(found[::step][:images]), root.resolve())


def _images(subject: Subject, spec: InputSpec) -> Path:
    if subject.data is None:
        return corpus(FOLDER, "scans" if max(spec.height, spec.width) > 100 else "cells")
    here = Path(subject.data)
    return here if here.exists() else Path(os.environ.get("MEDONNX_DATA", "../shared/data")) / subject.data


def _untrained(arch: str) -> Path:
    path = FOLDER / f"{arch}.pt"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        spec = GRAY if arch == "malaria_cnn" else RGB
        tensors = np.stack([preprocess(image, spec) for image in images_of(None).images])
        network = classifier(arch, tensors, spec, classes=len(CLASSES))
        config = network_config(Network(arch=arch), spec, classes=len(CLASSES))
        contract = ModelSpec(name=arch, classes=CLASSES, task="multiclass", input=spec)
        save_checkpoint(Checkpoint(contract, config, {}, "", {}, {}, network.state_dict()), path)
    return path
