"""The images of a training run, by its splits.csv: what an int8 file is calibrated, chosen and judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medexport.reference import ReferenceImages
from medexport.source import sha256
from medinfer.agreement import LEAST_JUDGED
from medinfer.errors import CheckpointError, ImageError, UsageError
from medinfer.imaging import preprocess, read_image
from medinfer.intervals import known_patients
from medinfer.labels import Labelled, read_rows
from medinfer.spec import InputSpec, ModelSpec
from medtrain.dataset import hash_of

# Enough for the ranges of activations, and few enough to take seconds.
MOST_CALIBRATED = 256


@dataclass(frozen=True)
class SplitImages(ReferenceImages):
    """Test images, which the verdict is given on, and what comes before it; no image is in two of the three."""

    test: Sequence[Labelled] = ()
    """In the order of `images`."""
    validation: Sequence[Labelled] = ()
    """What the settings are chosen on."""
    calibration: Sequence[Labelled] = ()
    """Training images, as many of each class: what the ranges of activations are taken from."""
    tell: Callable[[str], None] = lambda text: None
    """Told what was measured."""

    def label(self, position: int, classes: Sequence[str]) -> int | None:
        """Return the index of the class that the table tells."""
        return list(classes).index(self.test[position].label)

    def patients(self, positions: Sequence[int]) -> npt.NDArray[Any] | None:
        """Return a number for the patient of each image, int (n,), where images share patients."""
        return known_patients([self.test[position].patient for position in positions])

    def fitting(self, spec: InputSpec) -> SplitImages:
        """Return itself: real images are not enlarged."""
        return self


def images_of_splits(
    table: Path, data: Path, spec: ModelSpec, tell: Callable[[str], None] = lambda text: None
) -> SplitImages:
    """Return the images of a run, having checked that they are the ones that the checkpoint was trained on.

    Args:
        table: The run's splits.csv.
        data: The folder, or the .csv manifest, that was trained on: the table's paths begin there.
        spec: The checkpoint's contract; its `provenance.data_sha256` is the hash of the rows. Where there is none, of a
            network that was trained elsewhere, the table is believed.
        tell: Told what is measured on them.

    Raises:
        UsageError: Another run's table, images that were changed or are missing, too few to judge by.
    """
    rows = [row for _, row in read_rows(table, ("path", "label", "split"))]
    wanted = spec.provenance.data_sha256
    if wanted and hash_of((row["path"], row["label"], row["split"], row.get("sha256", "")) for row in rows) != wanted:
        hint = "Name the splits.csv of the same run by --splits: calibrating on test images would flatter the verdict."
        raise UsageError(f"{table}: not the images and splits that this checkpoint was trained on", hint=hint)
    root = data if data.is_dir() else data.parent
    chosen = {split: [row for row in rows if row["split"] == split] for split in ("train", "validation", "test")}
    chosen["train"] = balanced(chosen["train"], spec.classes)
    found: dict[str, list[Labelled]] = {}
    known: set[str] = set()
    for split in ("test", "validation", "train"):
        checked = [_checked(row, root, table, spec) for row in chosen[split]]
        # A random split may have put copies of an image on both sides.
        found[split] = [image for image, digest in checked if digest not in known]
        known |= {digest for _, digest in checked}
    for split, least in (("train", 1), ("validation", 1), ("test", LEAST_JUDGED)):
        if len(found[split]) < least:
            hint = "int8 is calibrated on train, chosen on validation and judged on test."
            raise UsageError(f"{table}: {len(found[split])} {split} images; it takes {least}", hint=hint)
    return SplitImages(
        "data",
        [one.path for one in found["test"]],
        test=found["test"],
        validation=found["validation"],
        calibration=found["train"],
        tell=tell,
    )


def tensors_of(images: Iterable[Labelled], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return images as the contract prepares them, uint8 (n, H, W, C); raises UsageError."""
    return np.stack([_tensor(image.path, spec) for image in images])


def _tensor(path: str, spec: InputSpec) -> npt.NDArray[np.uint8]:
    try:
        return preprocess(read_image(path, spec), spec)
    except ImageError as error:
        raise UsageError(f"{path}: int8 cannot be calibrated on it: {error.message}", hint=error.hint) from None


def balanced(rows: Sequence[dict[str, str]], classes: Sequence[str]) -> list[dict[str, str]]:
    """Return as many rows of each class, spread evenly over its own; of a class with fewer all."""
    most = max(1, MOST_CALIBRATED // len(classes))
    chosen = []
    for name in classes:
        own = [row for row in rows if row["label"] == name]
        count = min(most, len(own))
        chosen += [own[i * len(own) // count] for i in range(count)]
    return chosen


def _checked(row: dict[str, str], root: Path, table: Path, spec: ModelSpec) -> tuple[Labelled, str]:
    """Return an image, which is the one that was trained with, and its hash."""
    path = root / row["path"]
    if row["label"] not in spec.classes:
        raise UsageError(f"{table}: {row['label']!r} is not one of the classes {', '.join(spec.classes)}")
    try:
        found = sha256(path)
    except CheckpointError as error:
        raise UsageError(error.message, hint="--data names the folder that was trained on.") from None
    if row.get("sha256") and found != row["sha256"]:
        raise UsageError(f"{path}: not the image that was trained with", hint=f"Its sha256 is not that in {table}.")
    return Labelled(str(path), row["label"], row.get("patient") or None), found
