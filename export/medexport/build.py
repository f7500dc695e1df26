"""The order of an export: build, stamp, verify through the runtime, write the verdict in, replay, put in place."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medexport.bisect import bisect as diverging
from medexport.graph import to_onnx
from medexport.sidecars import Sidecars, labels_path, write_hf, write_labels, write_triton
from medexport.source import Source
from medexport.stamp import stamp
from medexport.verify import ReferenceImages, images_of, judge
from medinfer.errors import DisagreementError
from medinfer.files import atomic_file, refuse_existing
from medinfer.golden import golden_images, make_golden, verify
from medinfer.model import load
from medinfer.pixels import preprocess
from medinfer.progress import Progress
from medinfer.spec import GoldenSample, Graph, ModelSpec


def build_file(
    source: Source,
    path: str | os.PathLike[str],
    *,
    graph: Graph | None = None,
    images: ReferenceImages | None = None,
    overwrite: bool = False,
    bisect: bool = False,
    progress: Progress | None = None,
) -> ModelSpec:
    """Write `path` and return its contract; nothing is written unless the file agrees with its source.

    Args:
        source: What to export.
        path: The .onnx file.
        graph: What the graph takes; by default raw pixels in batches of any size.
        images: What the verdict is given on; by default drawn ones.
        overwrite: Replace an existing file.
        bisect: Where the file disagrees, say which node is the first to do so.
        progress: Stepped while the verdict is given.

    Raises:
        DisagreementError: The file would disagree with its source.
        ModelError: The network cannot be exported.
        UsageError: The path is taken, or the images cannot be used.
    """
    target = Path(path)
    refuse_existing(target, overwrite=overwrite)
    images = images or images_of(None)
    spec = replace(source.spec, graph=graph or Graph())
    model = to_onnx(source.classifier, spec)
    spec = replace(spec, golden=_golden(source))
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        draft = Path(folder) / target.name
        draft.write_bytes(stamp(model, spec))
        try:
            agreement = judge(source, load(draft, "cpu"), images, progress)
        except DisagreementError as error:
            place = f" The first difference is {diverging(source, draft, images)}." if bisect else ""
            raise DisagreementError(error.message + place, hint=f"{error.hint} No file was written.".strip()) from None
        spec = replace(spec, agreement=agreement)
        content = stamp(model, spec)
        draft.write_bytes(content)
        _replay(draft)
    with atomic_file(target, binary=True) as file:
        file.write(content)
    return spec


def write_sidecars(source: Source, model: Path, wanted: Sidecars, images: ReferenceImages | None = None) -> None:
    """Write what is wanted beside an exported model.

    Raises:
        DisagreementError: The file of floats that Hugging Face's tools take would disagree with its source.
    """
    if wanted.labels:
        write_labels(source.spec, labels_path(model))
    if wanted.triton:
        write_triton(load(model, "cpu").spec, model, wanted.triton)
    if wanted.hf:
        with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
            floats = Path(folder) / "model.onnx"
            spec = build_file(source, floats, graph=Graph(input="float"), images=images)
            write_hf(spec, floats, wanted.hf)


def _golden(source: Source) -> tuple[GoldenSample, ...]:
    pictures = golden_images()
    logits = source.logits(np.stack([preprocess(picture, source.spec.input) for picture in pictures]))
    return make_golden(pictures, logits, source.spec.input)


def _replay(path: Path) -> None:
    """Read the finished file back as its user will, and replay its golden samples."""
    report = verify(load(path, "cpu"))
    if not report.passes:
        raise DisagreementError("the finished file does not reproduce its golden samples", hint="No file was written.")
