"""The order of an export: build, stamp, verify through the runtime, write the verdict in, replay, put in place."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medexport.graph import to_onnx
from medexport.source import Source
from medexport.stamp import stamp
from medexport.verify import ReferenceImages, images_of, judge
from medinfer.errors import DisagreementError
from medinfer.files import atomic_file, refuse_existing
from medinfer.golden import golden_images, make_golden, verify
from medinfer.model import load
from medinfer.pixels import preprocess
from medinfer.spec import GoldenSample, Graph, ModelSpec


def export(
    source: Source, path: str | os.PathLike[str], *, images: ReferenceImages | None = None, overwrite: bool = False
) -> ModelSpec:
    """Write `path` and return its contract; nothing is written unless the file agrees with its source.

    Args:
        source: What to export.
        path: The .onnx file.
        images: What the verdict is given on; by default the synthetic battery.
        overwrite: Replace an existing file.

    Raises:
        DisagreementError: The file would disagree with its source.
        ModelError: The network cannot be exported.
        UsageError: The path is taken, or the images cannot be used.
    """
    target = Path(path)
    refuse_existing(target, overwrite=overwrite)
    model = to_onnx(source.classifier, source.spec)
    spec = replace(source.spec, graph=Graph(), golden=_golden(source))
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        draft = Path(folder) / target.name
        draft.write_bytes(stamp(model, spec))
        agreement = judge(source, load(draft, "cpu"), images or images_of(None))
        spec = replace(spec, agreement=agreement)
        content = stamp(model, spec)
        draft.write_bytes(content)
        _replay(draft)
    with atomic_file(target, binary=True) as file:
        file.write(content)
    return spec


def _golden(source: Source) -> tuple[GoldenSample, ...]:
    pictures = golden_images()
    logits = source.logits(np.stack([preprocess(picture, source.spec.input) for picture in pictures]))
    return make_golden(pictures, logits, source.spec.input)


def _replay(path: Path) -> None:
    """Read the finished file back as its user will, and replay its golden samples."""
    report = verify(load(path, "cpu"))
    if not report.passes:
        raise DisagreementError("the finished file does not reproduce its golden samples", hint="No file was written.")
