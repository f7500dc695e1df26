"""Where labelled images lie -> samples, each with its label and, where the user fixed it, its split.

Layouts: class folders; train/test folders (train, training, val, valid, validation, test, testing; any case) of class
folders; several such roots; a CSV manifest. A folder that wraps a single other one is looked through, as archives
often have it, and a second copy of everything inside (`cell_images/cell_images`) is left out.
"""

from __future__ import annotations

import filecmp
import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medinfer.errors import UsageError
from medinfer.inputs import is_image_file
from medinfer.labels import read_rows
from medtrain.recipe import Data

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# What is neither trained nor tested on: pictures under two labels, training copies of test pictures, unreadable files.
SET_ASIDE = "set-aside"
MOST_SHOWN = 10


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: Path
    name: str
    """Path below the data folder, with forward slashes: the key in splits.csv."""
    label: str
    split: str = ""
    """Empty until it is known."""
    patient: str = ""
    root: str = ""
    """The one of several roots that it lies under."""


@dataclass(frozen=True)
class Found:
    """What a search found, and what it left out."""

    samples: tuple[Sample, ...]
    excluded: int = 0
    nested_copies: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels, sorted."""
        return tuple(sorted({sample.label for sample in self.samples}))


def find_samples(data: Path, settings: Data) -> Found:
    """Return the labelled images of a folder or a .csv manifest, sorted by name.

    Raises:
        UsageError: There are no classes, an empty one, classes that differ in case only, or an ambiguous layout.
    """
    if data.suffix.lower() == ".csv" and not data.is_dir():
        found = read_manifest(data)
    elif data.is_dir():
        found = _Search(data, settings.exclude).run(settings.roots)
    else:
        raise UsageError(f"{data}: no such folder or manifest", hint="Name a folder of class folders, or a .csv file.")
    if len(found.classes) < 2:
        hint = "Expected one folder of images for each class: FOLDER/benign/..., FOLDER/malignant/..."
        raise UsageError(f"{data}: {len(found.classes)} classes found", hint=hint)
    _refuse_lookalikes(data, found.classes)
    samples = sorted(found.samples, key=lambda sample: sample.name)
    if settings.mix_folders:
        samples = [replace(s, split="") if s.split != SET_ASIDE else s for s in samples]
    if settings.patient is not None:
        samples = [_with_patient(sample, settings.patient) for sample in samples]
    return replace(found, samples=tuple(samples))


class _Search:
    """A walk through a folder, counting what it leaves out. `exclude` is for the names of files and folders alike."""

    def __init__(self, data: Path, exclude: Sequence[str]) -> None:
        self.data, self.exclude = data, exclude
        self.excluded = 0
        self.nested: list[str] = []

    def run(self, roots: Sequence[str]) -> Found:
        samples = [
            replace(sample, root=folder.name if roots else "")
            for folder in self._roots(roots)
            for sample in self._root_samples(self._unwrap(folder))
        ]
        return Found(tuple(samples), self.excluded, tuple(self.nested))

    def _roots(self, globs: Sequence[str]) -> list[Path]:
        """Return the folders that match, in the first folder on the way down that has any."""
        if not globs:
            return [self.data]
        top = self.data
        while True:
            chosen = [f for f in self._folders(top) if any(fnmatch.fnmatch(f.name, glob) for glob in globs)]
            if chosen:
                return chosen
            inner = self._unwrap_once(top)
            if inner is None:
                hint = f"Expected folders like {', '.join(globs)} (data.roots)."
                raise UsageError(f"{top}: none of the recipe's roots is here", hint=hint)
            top = inner

    def _root_samples(self, root: Path) -> list[Sample]:
        folders = self._folders(root)
        splits = {folder: SPLIT_FOLDERS[folder.name.lower()] for folder in folders if _names_split(folder)}
        if not splits:
            return self._class_samples(root)
        for folder in folders:
            if folder not in splits and _holds_image(folder):
                hint = "Move it away, or leave it out by data.exclude."
                raise UsageError(f"{folder}: holds images beside the {next(iter(splits)).name} folder", hint=hint)
        return [
            replace(sample, split=split)
            for folder, split in splits.items()
            for sample in self._class_samples(self._unwrap(folder))
        ]

    def _class_samples(self, folder: Path) -> list[Sample]:
        samples = []
        for class_folder in self._folders(folder):
            images = self._images(class_folder)
            if images and not any(map(_holds_image, self._folders(class_folder))):
                samples += [Sample(path, self._name(path), class_folder.name) for path in images]
            elif not images and _is_copy(class_folder, folder):
                self.nested.append(self._name(class_folder))
            else:
                raise self._no_class(class_folder)
        if not samples and self._images(folder):
            raise UsageError(f"{folder}: holds images, not class folders", hint="Expected a folder for each class.")
        return samples

    def _no_class(self, folder: Path) -> UsageError:
        if self._folders(folder):
            hint = "Point to the folder whose folders are the classes; other layouts are told by a .csv manifest."
            return UsageError(f"{folder}: holds folders, not images alone", hint=hint)
        return UsageError(f"{folder}: holds no image", hint="Remove the folder, or leave it out by data.exclude.")

    def _folders(self, folder: Path) -> list[Path]:
        return [path for path in _folders(folder) if not self._is_excluded(path)]

    def _images(self, folder: Path) -> list[Path]:
        images = _images(folder)
        kept = [path for path in images if not self._is_excluded(path)]
        self.excluded += len(images) - len(kept)
        return kept

    def _is_excluded(self, path: Path) -> bool:
        return any(fnmatch.fnmatch(path.name, glob) for glob in self.exclude)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.data).as_posix()

    def _unwrap(self, folder: Path) -> Path:
        """Look through folders that hold nothing but one other folder (train/train, archive/cell_images)."""
        while inner := self._unwrap_once(folder):
            folder = inner
        return folder

    def _unwrap_once(self, folder: Path) -> Path | None:
        inner = self._folders(folder)
        # A lone folder of images is a class, not a wrapping.
        return inner[0] if len(inner) == 1 and not _images(folder) and not _images(inner[0]) else None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if is_image_file(str(path)) and not path.name.startswith(".") and not path.is_dir()
    )


def _names_split(folder: Path) -> bool:
    return folder.name.lower() in SPLIT_FOLDERS


def _holds_image(folder: Path) -> bool:
    """Tell whether an image lies anywhere below a folder."""
    return bool(_images(folder)) or any(map(_holds_image, _folders(folder)))


def _is_copy(folder: Path, original: Path) -> bool:
    """Tell whether a folder repeats the folder that it lies in: its classes, and images of the same bytes."""
    copies = [(image, original / inner.name / image.name) for inner in _folders(folder) for image in _images(inner)]
    return bool(copies) and all(
        second.is_file() and filecmp.cmp(first, second, shallow=False) for first, second in copies
    )


def _refuse_lookalikes(data: Path, labels: Iterable[str]) -> None:
    """Refuse labels that differ only in case or space: `Normal` and `normal ` are one class misspelt."""
    seen: dict[str, str] = {}
    for label in labels:
        other = seen.setdefault(label.strip().casefold(), label)
        if other != label:
            raise UsageError(f"{data}: classes {other!r} and {label!r} differ only in case or space")


def _with_patient(sample: Sample, pattern: str) -> Sample:
    match = re.search(pattern, sample.path.name)
    if match is None or not match.group(1):
        hint = "Correct data.patient, or leave it out."
        raise UsageError(f"{sample.name}: {pattern!r} finds no patient in the name", hint=hint)
    return replace(sample, patient=match.group(1))


def read_manifest(path: Path) -> Found:
    """Read a CSV with the columns `path` and `label`, and if wanted `patient` and `split`.

    Paths are relative to the manifest's folder. An empty `split` leaves the choice to us.

    Raises:
        UsageError: A column is missing, or rows are wrong; the first ten are named.
    """
    rows = read_rows(path, ("path", "label"))
    samples = [(line, _row_sample(path.parent, row)) for line, row in rows]
    problems = _row_problems(samples)
    if problems:
        shown = "\n  ".join(problems[:MOST_SHOWN])
        raise UsageError(f"{path}: {len(problems)} rows cannot be used:\n  {shown}")
    return Found(tuple(sample for _, sample in samples))


def _row_sample(folder: Path, row: dict[str, str]) -> Sample:
    split = row.get("split", "").lower()
    return Sample(
        path=folder / row["path"],
        name=row["path"],
        label=row["label"],
        split=SPLIT_FOLDERS.get(split, split),
        patient=row.get("patient", ""),
    )


def _row_problems(samples: Sequence[tuple[int, Sample]]) -> list[str]:
    times = Counter(sample.name for _, sample in samples)
    problems = []
    for line, sample in samples:
        if not sample.name or not sample.label:
            problems.append(f"line {line}: no {'label' if sample.name else 'path'}")
        elif times[sample.name] > 1:
            problems.append(f"line {line}: {sample.name} stands in {times[sample.name]} rows")
        elif sample.split not in ("", *SPLITS, SET_ASIDE):
            problems.append(f"line {line}: split {sample.split!r} is not one of {', '.join(SPLITS)}, or empty")
        elif not sample.path.is_file():
            problems.append(f"line {line}: {sample.name}: no such file")
    return problems
