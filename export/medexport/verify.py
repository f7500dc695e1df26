"""The verdict: does the file, through the runtime that users run, say what the checkpoint says in torch?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from medexport.answers import Answers, ask
from medexport.half import rounding
from medexport.heatmap import heatmaps
from medexport.layers import leading_to
from medexport.reference import ReferenceImages, fixed_patterns
from medexport.source import Source
from medinfer.agreement import (
    LEAST_JUDGED,
    LEAST_KEPT,
    LEAST_SPREAD,
    MOST_LOST,
    TOLERANCES,
    Comparison,
    Logits,
    compare,
    compare_scores,
    most_flips,
    softmax,
)
from medinfer.errors import DisagreementError, UsageError, VariantError
from medinfer.golden import golden_images
from medinfer.graph import HEATMAP
from medinfer.imaging import preprocess
from medinfer.model import Model
from medinfer.progress import Progress
from medinfer.screening import apply
from medinfer.spec import Agreement, BeforeAfter, Differences, Graph, ModelSpec

BATCHES = (1, 2, 3, 7, 16)
MOST_NAMED = 3


def judge(source: Source, model: Model, reference: ReferenceImages, progress: Progress | None = None) -> Agreement:
    """Compare a model with its source on the images and on fixed patterns, in batches of 1, 2, 3, 7 and 16.

    A file in fp16 is held twice on the CPU, which leaves its roundings out: as it runs there, and with every value
    rounded as a processor with fp16 does. The worse of the two is returned.

    Raises:
        DisagreementError: They disagree, or the outputs vary too little to tell.
        VariantError: An int8 file does not keep labels or AUC, or the images are too few to tell.
        CheckpointError: The source answers NaN or infinity.
        UsageError: None of the images can be read; drawn ones, for an int8 file.
    """
    _insist_on_contract(source.spec, model)
    if model.precision == "int8" and reference.kind != "data":
        hint = "Name some: they tell whether labels are kept."
        raise UsageError("an int8 file is judged on real images alone", hint=hint)
    agreement = _judge(source, model, reference, progress)
    if model.precision != "fp16" or model.provider != "cpu":
        return agreement
    try:
        with rounding(model) as rounded:
            other = _judge(source, rounded, reference, progress)
    except DisagreementError as error:
        hint = "Rounded so, as processors with fp16 do, it would answer otherwise: export it in fp32."
        raise DisagreementError(f"with every value rounded to fp16, {error.message}", hint=hint) from None
    return max(agreement, other, key=lambda one: one.differences.max_logit)


def _judge(source: Source, model: Model, reference: ReferenceImages, progress: Progress | None) -> Agreement:
    int8 = model.precision == "int8"
    batches = (model.spec.graph.batch,) if model.spec.graph and model.spec.graph.batch else BATCHES
    reference = reference.fitting(source.spec.input)
    fixed = fixed_patterns(source.spec.input)
    progress = progress or Progress("", enabled=False)
    steps = sum(len(images) + max(len(images), sum(batches)) for images in (reference.images, fixed.images))
    progress.total = (progress.total or 0) + steps
    answers = ask(source, model, reference, batches, progress)
    battery = ask(source, model, fixed, batches, progress)
    found, stressed = _compared(source, model, answers), _compared(source, model, battery)
    spread = float(np.ptp(np.concatenate([answers.expected, battery.expected]), axis=0).max())
    if spread < LEAST_SPREAD:
        raise DisagreementError(
            f"the logits vary by {spread:.2g} over all images, under {LEAST_SPREAD}: any two models would agree",
            hint="Is it trained?",
        )
    if not int8:
        _insist(found, answers, reference, "images")
        _insist(stressed, battery, fixed, "patterns")
    _insist_on_heatmaps(source, model)
    farthest = _score_difference(answers, model.precision)
    _score_difference(battery, model.precision)
    agreement = Agreement(
        images=reference.kind,
        images_sha256=answers.sha256,
        unusable=len(reference.images) - len(answers.positions),
        batches=batches,
        provider=model.provider,
        precision=model.precision,
        differences=_differences(found, answers),
        battery=_differences(stressed, battery),
        operating_point_flips=_decisions_changed(source.spec, answers),
        status_flips=_statuses_changed(source.spec, answers),
        max_ood_score=None if farthest is None else _rounded(farthest),
        **_with_labels(source.spec, reference, answers, with_loss=int8),
    )
    return _keeping(agreement) if int8 else agreement


def _keeping(agreement: Agreement) -> Agreement:
    """Hold an int8 file to its labels and its area under the ROC curves; raises VariantError."""
    found, areas = agreement.differences, agreement.macro_auc
    if areas is None or found.count < LEAST_JUDGED:
        raise VariantError(
            f"{found.count} images tell too little of an int8 file: it takes {LEAST_JUDGED}, labelled, of every class"
        )
    lost = agreement.macro_auc_loss_interval
    # Without an interval nothing is known of chance: then nothing at all may be lost.
    held = lost[1] < MOST_LOST if lost else areas.file >= areas.checkpoint
    if found.label_flips > most_flips(found.count) or not held:
        raise VariantError(f"the int8 file does not keep to the checkpoint: {as_kept(agreement)}")
    return agreement


def as_kept(agreement: Agreement) -> str:
    """Return what an int8 file keeps, in words."""
    found, areas, lost = agreement.differences, agreement.macro_auc, agreement.macro_auc_loss_interval
    kept = found.count - found.label_flips
    text = f"{kept} of {found.count} labels kept ({kept / found.count:.1%}, at least {LEAST_KEPT:.0%} wanted)"
    if areas:
        text += f", macro AUC {areas.checkpoint:.4f} -> {areas.file:.4f}"
    if lost:
        text += f" (loss {lost[0]:.4f} to {lost[1]:.4f}, under {MOST_LOST} wanted)"
    return text


def describe(agreement: Agreement, reference: ReferenceImages) -> str:
    """Return the verdict as a few lines for people; `reference` is what it was given on."""
    found = agreement.differences
    images = "images of the data" if agreement.images == "data" else "drawn images"
    lines = [
        f"agrees with the checkpoint in batches of {', '.join(map(str, agreement.batches))}",
        f"{found.count} {images}: {_figures(found) if agreement.precision != 'int8' else as_kept(agreement)}",
        f"{agreement.battery.count} patterns: {_figures(agreement.battery)}",
    ]
    lines += [f"{agreement.unusable} images could not be read and are not counted"] * bool(agreement.unusable)
    lines += [f"tie: {reference.name(position)}" for position in found.ties]
    lines += [f"{name}: {flips} decisions changed" for name, flips in agreement.operating_point_flips.items()]
    if agreement.max_ood_score is not None:
        lines.append(f"scores of unlike images: at most {agreement.max_ood_score:.1e} off")
    lines += [f"abstention: {agreement.status_flips} statuses changed"] * (agreement.status_flips is not None)
    for name, pair in (("accuracy", agreement.accuracy), ("macro AUC", agreement.macro_auc)):
        if pair:
            lines.append(f"{name}: checkpoint {pair.checkpoint:.4f}, file {pair.file:.4f}")
    if agreement.images == "synthetic":
        lines.append("Drawn images only: name real ones for a verdict that means more.")
    return "\n".join(lines)


def _figures(found: Differences) -> str:
    allowed = "" if found.tolerance is None else f" (allowed {found.tolerance:.1e})"
    return (
        f"max |dlogit| {found.max_logit:.1e}{allowed}, mean {found.mean_logit:.1e}, "
        f"max |dp| {found.max_probability:.1e}, {found.label_flips} label flips, {len(found.ties)} ties"
    )


def differing_fields(wanted: ModelSpec, found: ModelSpec) -> list[str]:
    """Return the fields, of those that decide an answer or a decision, in which two contracts differ."""
    fields = [
        f"input.{name}" for name in vars(wanted.input) if getattr(wanted.input, name) != getattr(found.input, name)
    ]
    fields += [] if set(wanted.classes) == set(found.classes) else ["classes"]
    others = ("task", "calibration", "operating_points")
    fields += [name for name in others if getattr(wanted, name) != getattr(found, name)]
    fields += [] if _limits(wanted) == _limits(found) else ["abstention"]
    return fields + ([] if set(wanted.positive) == set(found.positive) else ["positive"])


def _limits(spec: ModelSpec) -> Any:
    """Return a contract's limits in which thresholds go by the names of the classes, as those do."""
    if spec.abstention is None:
        return None
    told = spec.abstention.to_json()
    told["conformal"]["thresholds"] = dict(zip(spec.classes, spec.abstention.conformal.thresholds, strict=True))
    return told


def _insist_on_contract(wanted: ModelSpec, model: Model) -> None:
    """Refuse what images cannot show: drawn ones tell nothing of 16-bit files, none of a threshold."""
    differing = differing_fields(wanted, model.spec)
    if differing:
        raise DisagreementError(f"the contracts of file and checkpoint differ in {', '.join(differing)}")
    claimed = model.spec.graph.precision if model.spec.graph else "fp32"
    stored = stored_precision(model.path)
    if claimed != stored:
        raise DisagreementError(f"the file says that it is {claimed}, and is {stored}")
    if model.precision not in TOLERANCES:
        raise DisagreementError(f"there is no tolerance for single logits of {model.precision}")


def stored_precision(path: Path) -> str:
    """Tell what a file computes in, by the weights of most layers but the first and the last: fp32, fp16 or int8.

    Other tensors do not count: a looser rule is not to be had by a decoy.
    """
    graph = onnx.load(path).graph
    made = {name: node for node in graph.node for name in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = []
    for node in leading_to("logits", graph):
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weights = node.input[1]
            stored = made[weights].input[0] if weights in made else weights  # through a DequantizeLinear
            found += [kinds[stored]] if stored in kinds else []
    names = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8"}
    inner = Counter(names.get(kind, "fp32") for kind in found[1:-1] or found)
    return inner.most_common(1)[0][0] if inner else "fp32"


def _compared(source: Source, model: Model, answers: Answers) -> Comparison:
    return compare(
        answers.repeated(answers.expected),
        answers.logits,
        answers.probabilities,
        precision=model.precision,
        temperature=source.spec.calibration.temperature,
    )


def _insist(found: Comparison, answers: Answers, reference: ReferenceImages, kind: str) -> None:
    if found.agrees:
        return
    flips = _positions(found.flips, answers)
    named = ", ".join(reference.name(i) for i in flips[:MOST_NAMED])
    raise DisagreementError(
        f"the exported model disagrees with the checkpoint on {kind}: max |dlogit| {found.max_difference:.2g} "
        f"(allowed {found.tolerance:.2g}), max |dp| {found.max_probability_difference:.2g} "
        f"(allowed {found.probability_tolerance:.2g}), {len(flips)} label flips of {len(answers.positions)}"
        + (f", such as {named}" if named else "")
    )


def _positions(rows: Sequence[int], answers: Answers) -> tuple[int, ...]:
    """Return where the images of some rows stand among those named, each once."""
    return tuple(sorted({answers.positions[i % len(answers.positions)] for i in rows}))


def _differences(found: Comparison, answers: Answers) -> Differences:
    return Differences(
        count=len(answers.positions),
        logit_spread=_rounded(found.spread),
        tolerance=_rounded(found.tolerance) if math.isfinite(found.tolerance) else None,
        max_logit=_rounded(found.max_difference),
        mean_logit=_rounded(found.mean_difference),
        max_probability=_rounded(found.max_probability_difference),
        label_flips=len(_positions(found.flips, answers)),
        ties=_positions(found.ties, answers),
    )


def _decisions_changed(spec: ModelSpec, answers: Answers) -> dict[str, int]:
    """Return, for each operating point, on how many images the file decides otherwise."""
    expected, observed = softmax(answers.expected, spec.calibration.temperature), _once(answers)
    changed = {}
    for point in spec.operating_points:
        indices = [spec.classes.index(name) for name in point.positive]
        before = expected[:, indices].sum(axis=1) >= point.threshold
        after = observed[:, indices].sum(axis=1) >= point.threshold
        changed[point.name] = int(np.count_nonzero(before != after))
    return changed


def _statuses_changed(spec: ModelSpec, answers: Answers) -> int | None:
    """Return on how many images the file abstains otherwise."""
    if spec.abstention is None or answers.expected_scores is None or answers.scores is None:
        return None
    own = softmax(answers.expected, spec.calibration.temperature)
    before = apply(spec.abstention, own, answers.expected_scores)
    after = apply(spec.abstention, _once(answers), answers.scores[: len(answers.expected)])
    return int(np.count_nonzero(before.status != after.status))


def _score_difference(answers: Answers, precision: str) -> float | None:
    """Return the largest difference of an `ood_score`; raises DisagreementError beyond rounding."""
    if answers.expected_scores is None or answers.scores is None:
        return None
    found, agrees = compare_scores(answers.repeated(answers.expected_scores), answers.scores, precision)
    if not agrees:
        raise DisagreementError(
            f"the scores of unlike images differ by up to {found:.2g}, beyond what {precision} allows"
        )
    return found


def _insist_on_heatmaps(source: Source, model: Model) -> None:
    """Hold a file's maps, if it gives any, to torch's on the golden pictures."""
    if HEATMAP not in (model.spec.graph or Graph()).extra_outputs:
        return
    pictures = golden_images(source.spec.input.min_side)
    tensors = np.stack([preprocess(picture, source.spec.input) for picture in pictures])
    wanted = heatmaps(source.classifier, source.spec.input, tensors)
    seen = model.predict_batch(pictures)
    found = np.stack([one.maps for one in seen if one.maps is not None])
    difference = float(np.abs(wanted - found).max())
    if not difference <= TOLERANCES[model.precision][0] * max(1.0, float(np.ptp(wanted))):
        raise DisagreementError(f"the heatmaps differ from torch's by up to {difference:.2g}")


def _once(answers: Answers) -> Logits:
    """Return the file's probabilities, one row for each image."""
    return answers.probabilities[: len(answers.expected)]


def _with_labels(
    spec: ModelSpec, reference: ReferenceImages, answers: Answers, *, with_loss: bool = False
) -> dict[str, Any]:
    """Return accuracy and AUC of both sides on the images whose class is told, and the interval of what is lost."""
    told = [reference.label(position, spec.classes) for position in answers.positions]
    rows = [i for i, label in enumerate(told) if label is not None]
    if not rows:
        return {}
    from medinfer.metrics import measure

    labels = np.array([told[i] for i in rows], np.int64)
    expected, observed = softmax(answers.expected, spec.calibration.temperature)[rows], _once(answers)[rows]
    before, after = measure(labels, expected, spec.classes), measure(labels, observed, spec.classes)
    figures: dict[str, Any] = {
        name: BeforeAfter(checkpoint=round(before[name], 6), file=round(after[name], 6))
        for name in ("accuracy", "macro_auc")
        if before[name] is not None and after[name] is not None
    }
    if with_loss:
        from medinfer.uncertainty import macro_auc_loss

        patients = reference.patients([answers.positions[i] for i in rows])
        interval = macro_auc_loss(labels, expected, observed, patients)
        figures["macro_auc_loss_interval"] = interval and (_rounded(interval.low), _rounded(interval.high))
    return figures


def _rounded(value: float) -> float:
    """Keep three digits: more would tell of the processor's rounding rather than of the model."""
    return float(f"{value:.2e}")
