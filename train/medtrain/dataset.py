"""A folder or a manifest -> samples, each in exactly one split; and samples -> tensors."""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, UsageError
from medinfer.files import atomic_file
from medinfer.imaging import preprocess, read_image
from medinfer.progress import Progress
from medinfer.spec import InputSpec
from medinfer.stream import available_cores, ordered_map
from medtrain.audit import audit
from medtrain.layout import SET_ASIDE, SPLITS, Sample, find_samples
from medtrain.recipe import Data
from medtrain.splits import Finding, split_samples
from medtrain.survey import Facts, survey

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

MOST_SHOWN = 10
MEMORY_BUDGET = 4 << 30


@dataclass(frozen=True)
class Examples:
    """Tensors with their labels: what a network learns from."""

    images: Images
    """uint8 (n, height, width, channels)"""
    labels: Labels
    """Class indices, int64 (n,)"""
    names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """All samples of a data set, split, with what is known of each and found about all."""

    data: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    facts: tuple[Facts, ...]
    findings: tuple[Finding, ...]

    def split(self, name: str) -> list[Sample]:
        """Return the samples of `train`, `validation`, `test` or `set-aside`."""
        return [sample for sample in self.samples if sample.split == name]

    def labels(self, samples: Iterable[Sample]) -> Labels:
        """Return class indices, int64 (samples,)."""
        return np.array([self.classes.index(sample.label) for sample in samples], np.int64)

    @property
    def sha256(self) -> str:
        """Hash over every sample's name, label, split and content."""
        pairs = zip(self.samples, self.facts, strict=True)
        return hash_of((sample.name, sample.label, sample.split, facts.sha256) for sample, facts in pairs)

    @property
    def errors(self) -> list[Finding]:
        """The reasons not to train on this."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def refuse_errors(self) -> None:
        """Raise UsageError if there are reasons not to train on this."""
        if self.errors:
            reasons = "\n".join(map(_told, self.errors))
            raise UsageError(f"{self.data}: these data are refused:\n{reasons}\n", hint=_remedy(self))

    def summary(self) -> dict[str, Any]:
        """Return counts and findings as JSON values, as they are kept in the checkpoint."""
        counts = {split: Counter(s.label for s in self.split(split)) for split in (*SPLITS, SET_ASIDE)}
        findings = [{**asdict(f), "examples": list(f.examples[:MOST_SHOWN])} for f in self.findings]
        return {
            "images": len(self.samples),
            "counts": {split: {label: count[label] for label in self.classes} for split, count in counts.items()},
            "patients": len({sample.patient for sample in self.samples} - {""}),
            "findings": findings,
        }


def load_dataset(data: Path, settings: Data, spec: InputSpec, seed: int, progress: Progress | None = None) -> Dataset:
    """Find, look at, check and split labelled images; refuse those that would give false results.

    Args:
        data: A folder or a .csv manifest.
        settings: Which images, and how they are split.
        spec: How images are read.
        seed: Decides the split.
        progress: Told how many images there are, and stepped after each that was looked at.

    Raises:
        UsageError: No classes, an ambiguous layout, unreadable images, a split that leaks.
    """
    dataset = examine(data, settings, spec, seed, progress)
    dataset.refuse_errors()
    return dataset


def examine(data: Path, settings: Data, spec: InputSpec, seed: int, progress: Progress | None = None) -> Dataset:
    """Do what `load_dataset` does, but return the reasons to refuse with the other findings; same arguments."""
    found = find_samples(data, settings)
    progress = progress or Progress("", enabled=False)
    progress.total = len(found.samples)
    facts = survey(found.samples, spec, progress.step)
    split = split_samples(found.samples, facts, settings, seed)
    findings = (*split.findings, *audit(found, split.samples, facts))
    return Dataset(data, found.classes, split.samples, tuple(facts), findings)


def findings_text(dataset: Dataset) -> str:
    """Return counts and findings for people, the gravest first."""
    lines = [f"{dataset.data}: {len(dataset.samples)} images, {len(dataset.classes)} classes"]
    for label in dataset.classes:
        counts = {split: sum(s.label == label for s in dataset.split(split)) for split in (*SPLITS, SET_ASIDE)}
        lines.append(f"  {label}: " + ", ".join(f"{count} {split}" for split, count in counts.items() if count))
    for severity in ("error", "warning", "note"):
        for finding in dataset.findings:
            if finding.severity == severity:
                lines.append(f"{severity}: {finding.kind}: {finding.message}")
                lines += [f"    {example}" for example in finding.examples[:MOST_SHOWN]]
                if len(finding.examples) > MOST_SHOWN:
                    lines.append(f"    ... and {len(finding.examples) - MOST_SHOWN} more")
    return "\n".join(lines)


def _told(finding: Finding) -> str:
    shown = "".join(f"\n    {example}" for example in finding.examples[:MOST_SHOWN])
    return f"  {finding.message}{shown}"


def _remedy(dataset: Dataset) -> str:
    remedies: Mapping[str, str] = {
        "unreadable": "Remove the unreadable images, or leave them out with --skip-bad.",
        "leakage": 'Mend the split, set data.on_leak = "drop-from-train", or accept it with --allow-leakage.',
        "drawn-leakage": "Leave data.keep_together on, or accept it with --allow-leakage.",
        "missing-class": "Add images, or change data.validation and data.test.",
    }
    return " ".join(dict.fromkeys(remedies[finding.kind] for finding in dataset.errors))


def hash_of(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return one hash over name, label, split and content's hash of every image, in the order of splits.csv."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\0".join((*row, "")).encode())
    return digest.hexdigest()


def write_splits(dataset: Dataset, path: Path) -> None:
    """Write splits.csv: path, label, split, patient, sha256; one row for each image found."""
    with atomic_file(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label", "split", "patient", "sha256"])
        for sample, facts in zip(dataset.samples, dataset.facts, strict=True):
            rows.writerow([sample.name, sample.label, sample.split, sample.patient, facts.sha256])


def load_examples(
    dataset: Dataset,
    split: str,
    spec: InputSpec,
    *,
    budget: int = MEMORY_BUDGET,
    step: Callable[[], None] = lambda: None,
) -> Examples:
    """Decode and preprocess a split's images once, exactly as inference will.

    Args:
        dataset: What to take from.
        split: `train`, `validation` or `test`.
        spec: The contract's input.
        budget: Bytes of memory; tensors that need more lie in a temporary file, which the system caches as it can.
        step: Called after each image.

    Raises:
        UsageError: Images that cannot be used; the first ten are named.
    """
    samples = dataset.split(split)
    tensors = _allocate((len(samples), spec.height, spec.width, spec.channels), budget)

    def fill(index: int) -> str | None:
        try:
            preprocess(read_image(samples[index].path, spec), spec, out=tensors[index])
        except ImageError as error:
            return f"{samples[index].name}: {error.code}: {error}"
        return None

    problems = []
    for problem in ordered_map(fill, range(len(samples)), workers=available_cores()):
        step()
        if problem:
            problems.append(problem)
    if problems:
        shown = "\n  ".join(problems[:MOST_SHOWN])
        raise UsageError(
            f"{len(problems)} images cannot be used:\n  {shown}\n", hint="Remove them, or data.exclude them."
        )
    return Examples(tensors, dataset.labels(samples), tuple(sample.name for sample in samples))


def _allocate(shape: tuple[int, ...], budget: int) -> Images:
    if np.prod(shape, dtype=np.int64) <= budget:
        return np.empty(shape, np.uint8)
    # The file has no name: the system frees it with the array, however the process ends.
    with tempfile.TemporaryFile(prefix="medtrain-") as file:
        # Ask for all of it now: a disk that fills up later would end the process without a word.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape, dtype=np.int64)))
        return np.memmap(file, np.uint8, "r+", shape=shape)
