"""The order of an export: build, stamp, verify through the runtime, write the verdict in, replay, put in place."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from medexport.bisect import explained
from medexport.graph import to_onnx
from medexport.heatmap import find_pooled
from medexport.precision import check_precision, lowered
from medexport.reference import ReferenceImages, images_of
from medexport.resize import check_resize
from medexport.sidecars import Sidecars
from medexport.size import network_size
from medexport.source import Source
from medexport.splits import SplitImages
from medexport.stamp import stamp
from medexport.verify import judge
from medexport.worth import insist_on_worth
from medinfer.choices import OOD_SCORE
from medinfer.errors import CheckpointError, DisagreementError, UsageError
from medinfer.files import atomic_file, refuse_existing
from medinfer.golden import golden_images, make_golden, verify, with_own_answers
from medinfer.graph import HEATMAP
from medinfer.imaging import preprocess
from medinfer.model import load
from medinfer.progress import Progress
from medinfer.spec import GoldenSample, Graph, ModelSpec
from medtrain.network import knows_outliers


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
        graph: What the graph takes and computes in; by default raw pixels in batches of any size, and fp32.
        images: What the verdict is given on; by default drawn ones. For int8 those of the training run's splits.
        overwrite: Replace an existing file.
        bisect: Where the file disagrees, say which node is the first to do so.
        progress: Stepped while the verdict is given.

    Raises:
        DisagreementError: The file would disagree with its source.
        ModelError: The network cannot be exported.
        UsageError: The path is taken, or the images cannot be used.
        VariantError: An int8 file would lose too much, or be no faster than the fp32 file on this machine.
    """
    target = Path(path)
    refuse_existing(target, overwrite=overwrite)
    graph = graph or Graph()
    if graph.input == "image":
        check_resize(source.spec.input)
    check_precision(graph, images)
    graph = replace(graph, extra_outputs=_extra_outputs(source, graph))
    if source.spec.abstention and OOD_SCORE not in graph.extra_outputs:
        hint = "Take abstention out of the contract, or export what medtrain fit has finished."
        raise UsageError("its limits for abstaining need a network that knows its training images", hint=hint)
    images = images or images_of(None)
    spec = replace(source.spec, graph=graph, size=network_size(source.classifier, source.spec.input))
    plain = to_onnx(source.classifier, spec)
    model, spec = lowered(plain, spec, source, images)
    spec = replace(spec, golden=_golden(source))
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        draft = Path(folder) / target.name
        draft.write_bytes(stamp(model, spec))
        try:
            if isinstance(images, SplitImages) and graph.precision == "int8":
                agreement = insist_on_worth(source, _fp32(plain, spec, draft), draft, images, progress)
                spec = replace(spec, golden=with_own_answers(load(draft, "cpu"), spec.golden or ()))
            else:
                agreement = judge(source, load(draft, "cpu"), images, progress)
        except DisagreementError as error:
            told = explained(error, source, draft, images, bisect=bisect)
            raise DisagreementError(told.message, hint=f"{told.hint} No file was written.".strip()) from None
        spec = replace(spec, agreement=agreement)
        content = stamp(model, spec)
        draft.write_bytes(content)
        _replay(draft)
    with atomic_file(target, binary=True) as file:
        file.write(content)
    return spec


def build_all(
    source: Source,
    path: Path,
    sidecars: Sidecars,
    *,
    graph: Graph,
    images: ReferenceImages,
    bisect: bool = False,
    progress: Progress | None = None,
) -> ModelSpec:
    """Write a file and what is wanted beside it, replacing what there is; nothing if one of the models disagrees."""
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        draft, floats = Path(folder) / path.name, Path(folder) / "hf" / "model.onnx"
        spec = build_file(source, draft, graph=graph, images=images, bisect=bisect, progress=progress)
        if sidecars.hf:
            floats.parent.mkdir()
            build_file(source, floats, graph=Graph(input="float"), images=images, bisect=bisect)
        # The model last: where it stands, everything does.
        sidecars.write(spec, draft, path, floats)
        with atomic_file(path, binary=True) as file:
            file.write(draft.read_bytes())
    return spec


def _extra_outputs(source: Source, graph: Graph) -> tuple[str, ...]:
    """Return the outputs beside the usual two: those that the network can give, and those wished for."""
    if unknown := set(graph.extra_outputs) - {OOD_SCORE, HEATMAP}:
        raise UsageError(f"graph.extra_outputs: {', '.join(sorted(unknown))} not known")
    known = [OOD_SCORE] * knows_outliers(source.classifier)
    if HEATMAP in graph.extra_outputs:
        find_pooled(source.classifier, source.spec.input)  # refuses a network that has none before any work is done
        known.append(HEATMAP)
    return tuple(known)


def _fp32(model: onnx.ModelProto, spec: ModelSpec, draft: Path) -> Path:
    """Write the fp32 file beside the int8 one, to be measured against."""
    path = draft.with_name(f"fp32-{draft.name}")
    graph = replace(spec.graph or Graph(), precision="fp32")
    path.write_bytes(stamp(model, replace(spec, graph=graph)))
    return path


def _golden(source: Source) -> tuple[GoldenSample, ...]:
    pictures = golden_images(source.spec.input.min_side)
    logits, scores = source.scored(np.stack([preprocess(picture, source.spec.input) for picture in pictures]))
    if not np.isfinite(logits).all():
        raise CheckpointError("the checkpoint answers NaN or infinity", hint="Did its training diverge?")
    return make_golden(pictures, logits, source.spec.input, scores)


def _replay(path: Path) -> None:
    """Read the finished file back as its user will, and replay its golden samples."""
    report = verify(load(path, "cpu"))
    if not report.passes:
        raise DisagreementError("the finished file does not reproduce its golden samples", hint="No file was written.")
