"""A folder of labelled images -> samples, each in exactly one split; and samples -> tensors.

Layouts: class folders, or train/test folders (train, training, val, valid, validation, test, testing; any case) of
class folders. A folder that wraps a single other one is looked through, as archives often have it.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, UsageError
from medinfer.files import atomic_file
from medinfer.images import read_file, read_image
from medinfer.inputs import is_image_name
from medinfer.pixels import preprocess
from medinfer.spec import InputSpec
from medinfer.stream import available_cores, ordered_map
from medtrain.recipe import Data

Tensors = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

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
# What is neither trained nor tested on: copies of one picture under two labels, and training copies of test pictures.
SET_ASIDE = "set-aside"
MOST_SHOWN = 10


@dataclass(frozen=True)
class Sample:
    """One labelled image; `split` is empty until it is known."""

    path: Path
    name: str
    """Path below the data folder, with forward slashes: the key in splits.csv."""
    label: str
    split: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    """All samples of a folder, split."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def split(self, name: str) -> list[Sample]:
        """Return the samples of `train`, `validation`, `test` or `set-aside`."""
        return [sample for sample in self.samples if sample.split == name]

    def labels(self, samples: Iterable[Sample]) -> Labels:
        """Return class indices, int64 (samples,)."""
        return np.array([self.classes.index(sample.label) for sample in samples], np.int64)

    @property
    def sha256(self) -> str:
        """Hash over every sample's name, label, split and content."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update("\0".join((sample.name, sample.label, sample.split, sample.sha256, "")).encode())
        return digest.hexdigest()


def load_dataset(root: Path, settings: Data, seed: int, step: Callable[[], None] = lambda: None) -> Dataset:
    """Find, hash and split the images below `root`; `step` is called after each image hashed.

    Raises:
        UsageError: No classes, an empty class, a layout that is ambiguous, or a fixed split that leaks.
    """
    found = find_samples(root, settings.exclude)
    hashed = []
    for sample in ordered_map(_with_hash, found, workers=available_cores()):
        hashed.append(sample)
        step()
    samples = _set_conflicts_aside(hashed)
    samples = _handle_leaks(samples, settings.on_leak)
    samples = _draw_missing_splits(samples, settings, seed)
    dataset = Dataset(root, tuple(sorted({sample.label for sample in samples})), tuple(samples))
    _check_splits(dataset)
    return dataset


def find_samples(root: Path, exclude: Sequence[str] = ()) -> list[Sample]:
    """Return the labelled images below `root`, sorted by name; `split` is set where folders fix it.

    Raises:
        UsageError: The folder does not hold class folders.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", hint="Name a folder of class folders.")
    top = _unwrap(root)
    splits = {folder: SPLIT_FOLDERS[folder.name.lower()] for folder in _folders(top) if _is_split(folder)}
    samples = []
    for folder, split in splits.items():
        samples += [replace(sample, split=split) for sample in _class_samples(_unwrap(folder), root, exclude)]
    if not splits:
        samples = _class_samples(top, root, exclude)
    labels = {sample.label for sample in samples}
    if len(labels) < 2:
        hint = "Expected one folder of images for each class: FOLDER/benign/..., FOLDER/malignant/..."
        raise UsageError(f"{root}: {len(labels)} classes found", hint=hint)
    _refuse_lookalikes(root, labels)
    return sorted(samples, key=lambda sample: sample.name)


def _is_split(folder: Path) -> bool:
    return folder.name.lower() in SPLIT_FOLDERS


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path, exclude: Sequence[str]) -> list[Path]:
    files = (path for path in folder.iterdir() if is_image_name(path.name) and not path.name.startswith("."))
    return [path for path in files if not any(fnmatch.fnmatch(path.name, glob) for glob in exclude)]


def _unwrap(folder: Path) -> Path:
    """Look through folders that hold nothing but one other folder (train/train, archive/cell_images)."""
    while len(inner := _folders(folder)) == 1 and not _images(folder, ()):
        folder = inner[0]
    return folder


def _class_samples(folder: Path, root: Path, exclude: Sequence[str]) -> list[Sample]:
    samples = []
    for class_folder in _folders(folder):
        images = _images(class_folder, exclude)
        if not images:
            reason = "holds folders, not images" if _folders(class_folder) else "holds no image"
            hint = "Point to the folder whose folders are the classes."
            raise UsageError(f"{class_folder}: {reason}", hint=hint)
        label = class_folder.name
        samples += [Sample(path, path.relative_to(root).as_posix(), label) for path in images]
    return samples


def _refuse_lookalikes(root: Path, labels: Iterable[str]) -> None:
    """Refuse labels that differ only in case or space: `Normal` and `normal ` are one class misspelt."""
    seen: dict[str, str] = {}
    for label in sorted(labels):
        other = seen.setdefault(label.strip().casefold(), label)
        if other != label:
            raise UsageError(f"{root}: classes {other!r} and {label!r} differ only in case or space")


def _with_hash(sample: Sample) -> Sample:
    try:
        return replace(sample, sha256=hashlib.sha256(read_file(sample.path)).hexdigest())
    except ImageError as error:
        raise UsageError(f"{sample.path}: {error}") from None


def _set_conflicts_aside(samples: Sequence[Sample]) -> list[Sample]:
    """Set aside the copies of one picture that carry different labels: at least one label is wrong."""
    labels = defaultdict(set)
    for sample in samples:
        labels[sample.sha256].add(sample.label)
    return [replace(s, split=SET_ASIDE) if len(labels[s.sha256]) > 1 else s for s in samples]


def _handle_leaks(samples: list[Sample], on_leak: str) -> list[Sample]:
    """Deal with pictures that folders put into an earlier split as well as a later one: the later keeps them."""
    for later, earlier in (("test", ("train", "validation")), ("validation", ("train",))):
        kept = {sample.sha256 for sample in samples if sample.split == later}
        leaked = [sample for sample in samples if sample.split in earlier and sample.sha256 in kept]
        if leaked and on_leak == "refuse":
            names = ", ".join(sample.name for sample in leaked[:3])
            raise UsageError(
                f"{len(leaked)} training images have an exact copy in the {later} folder, such as {names}",
                hint='Remove them, or set data.on_leak = "drop-from-train".',
            )
        gone = {sample.name for sample in leaked}
        samples = [replace(s, split=SET_ASIDE) if s.name in gone else s for s in samples]
    return samples


def _draw_missing_splits(samples: list[Sample], settings: Data, seed: int) -> list[Sample]:
    """Draw by class what the folders do not fix; exact copies stay together. Depends on names and seed only."""
    fixed = {sample.split for sample in samples}
    shares = (("test", settings.test), ("validation", settings.validation))
    wanted = {name: share for name, share in shares if name not in fixed}
    drawn: dict[str, str] = {}
    pool = [sample for sample in samples if sample.split in ("", "train")]
    for label in sorted({sample.label for sample in pool}):
        members = [sample for sample in pool if sample.label == label]
        drawn |= _draw(members, wanted, random.Random(f"{seed}/{label}"))
    return [replace(s, split=drawn[s.name]) if s.split in ("", "train") else s for s in samples]


def _draw(members: list[Sample], wanted: dict[str, float], rng: random.Random) -> dict[str, str]:
    """Return name -> split for the samples of one class."""
    copies = defaultdict(list)
    for sample in members:
        copies[sample.sha256].append(sample.name)
    groups = sorted(copies.values())
    rng.shuffle(groups)
    result: dict[str, str] = {}
    for split, share in wanted.items():
        target = max(1, round(share * len(members)))
        while groups and target > 0:
            group = groups.pop()
            target -= len(group)
            result |= dict.fromkeys(group, split)
    return result | {name: "train" for group in groups for name in group}


def _check_splits(dataset: Dataset) -> None:
    """Refuse a split that lacks a class: no metric would mean anything."""
    for split in SPLITS:
        counts = Counter(sample.label for sample in dataset.split(split))
        for label in dataset.classes:
            if not counts[label]:
                raise UsageError(
                    f"{dataset.root}: class {label!r} has no image in the {split} split",
                    hint="Add images, or change data.validation and data.test.",
                )


def write_splits(dataset: Dataset, path: Path) -> None:
    """Write splits.csv: path, label, split, sha256; one row for each image found."""
    with atomic_file(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label", "split", "sha256"])
        rows.writerows([s.name, s.label, s.split, s.sha256] for s in dataset.samples)


def load_tensors(samples: Sequence[Sample], spec: InputSpec, step: Callable[[], None] = lambda: None) -> Tensors:
    """Decode and preprocess, exactly as inference will: uint8 (samples, height, width, channels).

    Raises:
        UsageError: Images that cannot be used; the first ten are named.
    """
    tensors = np.empty((len(samples), spec.height, spec.width, spec.channels), np.uint8)

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
    return tensors
