"""The model card: everything that the checkpoint knows of itself, and what only its author can say, marked if missing.

The fields are those that the FDA's draft guidance of 2025 on AI-enabled device software, CLAIM 2024 and TRIPOD+AI ask
for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medinfer.command import DISCLAIMER
from medinfer.errors import SpecError, UsageError
from medtrain.author import Card
from medtrain.checkpoint import Checkpoint

MISSING = "**Missing**: to be given by the author, in the recipe under `[card]` or by `--author`."
QUESTIONS = {
    "intended_use": "Intended use",
    "users": "Intended users",
    "population": "Intended population",
    "out_of_scope": "Out of scope",
    "reference_standard": "Reference standard, annotators, quality control",
    "data_source": "Where and when the images were taken, sites and devices",
    "data_licence": "Licence and consent",
    "limitations": "Known limitations",
    "fairness": "Subgroups and fairness",
    "monitoring": "Monitoring plan",
    "contact": "Contact and citation",
}
ROWS = ("accuracy", "balanced_accuracy", "macro_auc", "sensitivity", "specificity", "brier", "nll", "ece")


def author(checkpoint: Checkpoint, file: Path | None = None) -> Card:
    """Return what the author says: the recipe's table `[card]`, and over it the fields of a TOML file.

    Raises:
        UsageError: The file cannot be read, or holds something else.
    """
    given = dict(checkpoint.recipe.get("card", {}))
    try:
        return Card.from_json(given | (tomllib.loads(file.read_text(encoding="utf-8")) if file else {}))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, SpecError) as error:
        raise UsageError(f"{file or 'the recipe'}: {error}", hint=f"Known are {', '.join(QUESTIONS)}.") from None


def missing(said: Card) -> list[str]:
    """Return the fields that the author has not given."""
    return [name for name in QUESTIONS if not getattr(said, name).strip()]


def card(checkpoint: Checkpoint, said: Card, sha256: str) -> str:
    """Return a checkpoint's card in Markdown; `sha256` is of its file."""
    spec, recipe = checkpoint.spec, checkpoint.recipe
    told = {name: getattr(said, name).strip() or MISSING for name in QUESTIONS}
    sections = {
        "Use": _list((QUESTIONS[name], told[name]) for name in ("intended_use", "users", "population", "out_of_scope")),
        "Input and output": _list(_contract(checkpoint)),
        "Data": _data(checkpoint)
        + _list((QUESTIONS[name], told[name]) for name in ("data_source", "data_licence", "reference_standard")),
        "Training": _list(_training(checkpoint, sha256)),
        "Performance on the test images": _performance(checkpoint.metrics.get("test", {}), _cells(spec.classes)),
        "Limits": _list((QUESTIONS[name], told[name]) for name in ("limitations", "fairness", "monitoring", "contact")),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {spec.name}: {recipe.get('title', '')}\n\n**{DISCLAIMER}**\n\n{body}\n"


def _cells(names: Sequence[str]) -> list[str]:
    """Return names as cells of a table."""
    return [name.replace("|", "\\|") for name in names]


def _contract(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    spec = checkpoint.spec
    yield "Classes, in output order", ", ".join(spec.classes)
    yield "Positive (disease)", ", ".join(spec.positive) or "none named"
    image = spec.input
    fit = image.fit if isinstance(image.fit, str) else next(iter(image.fit.to_json()))
    yield (
        "Image",
        f"{image.color}, {fit} to {image.width}x{image.height}, {image.interpolation}; `medinfer info` has all",
    )
    yield "Probabilities", f"softmax of the logits / {spec.calibration.temperature:g}, the temperature"


def _data(checkpoint: Checkpoint) -> str:
    counts: Mapping[str, Mapping[str, int]] = checkpoint.data.get("counts", {})
    if not counts:
        return ""
    classes = checkpoint.spec.classes
    lines = ["| split | " + " | ".join(_cells(classes)) + " |", "|---|" + "---|" * len(classes)]
    lines += [
        f"| {split} | " + " | ".join(str(row.get(name, 0)) for name in classes) + " |" for split, row in counts.items()
    ]
    patients = checkpoint.data.get("patients")
    split = checkpoint.recipe.get("data", {})
    told = [("Patients", str(patients) if patients else "not known: images of one may stand on both sides")]
    told.append(("Exact copies and patients kept together", "yes" if split.get("keep_together", True) else "no"))
    told += [
        ("Found in the data", str(one["message"])) for one in checkpoint.data.get("findings", []) if "message" in one
    ]
    return "\n".join(lines) + "\n\n" + _list(told) + "\n"


def _training(checkpoint: Checkpoint, sha256: str) -> Iterator[tuple[str, str]]:
    recipe, provenance = checkpoint.recipe, checkpoint.spec.provenance
    network, training = recipe.get("network", {}), recipe.get("training", {})
    yield (
        "Network",
        f"{network.get('arch')}, {sum(value.numel() for value in checkpoint.state_dict.values()):,} numbers",
    )
    yield "Started from", str(network.get("weights"))
    yield "Recipe", f"{provenance.recipe}, {training.get('epochs')} epochs at most, seed {training.get('seed')}"
    yield "Date", str(provenance.created)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    yield "Checkpoint", f"sha256 {sha256}"
    yield "Images and labels", f"sha256 {provenance.data_sha256}"


def _performance(test: Mapping[str, Any], classes: Sequence[str]) -> str:
    if not test:
        return "Not measured yet: the run was not finished."
    ranges = test.get("intervals", {})
    lines = [f"{test['images']} images.", "", "| metric | value | 95 % interval | method |", "|---|---|---|---|"]
    for key in (key for key in ROWS if test.get(key) is not None):
        one = ranges.get(key)
        told = f"{one['low']:.3f} to {one['high']:.3f} | {one['method']}" if one else "- | -"
        lines.append(f"| {key.replace('_', ' ')} | {test[key]:.3f} | {told} |")
    lines += ["", "Rows are the truth, columns the answers:", "", "| | " + " | ".join(classes) + " |"]
    lines.append("|---|" + "---|" * len(classes))
    for name, row in zip(classes, test["confusion_matrix"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    for name, point in test.get("operating_points", {}).items():
        told = ", ".join(_rate(point, kind) for kind in ("sensitivity", "specificity"))
        lines += ["", f"- **{name}**, p(positive) >= {point['threshold']:.4f}: {told}"]
    before = test.get("uncalibrated", {})
    if before:
        told = ", ".join(f"{key.upper()} {before[key]:.3f} -> {test[key]:.3f}" for key in ("ece", "nll"))
        lines += ["", f"Calibration, before -> after: {told}"]
    return "\n".join(lines)


def _rate(point: Mapping[str, Any], kind: str) -> str:
    if point[kind] is None:
        return f"{kind} unknown"
    low, high = point[f"{kind}_interval"]
    return f"{kind} {point[kind]:.3f} ({low:.3f} to {high:.3f})"


def _list(pairs: Any) -> str:
    return "\n".join(f"- **{name}**: {' '.join(str(value).split())}" for name, value in pairs)
