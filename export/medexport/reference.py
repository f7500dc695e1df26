"""The images that a verdict is given on: a folder's, or drawn ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medexport.battery import drawn_images, patterns
from medinfer.errors import UsageError
from medinfer.golden import enlarged
from medinfer.imaging import ImageSource
from medinfer.inputs import class_of, find_images
from medinfer.spec import InputSpec

DEFAULT_IMAGES = 64


@dataclass(frozen=True)
class ReferenceImages:
    """The images that a verdict is given on."""

    kind: Literal["data", "synthetic"]
    images: Sequence[ImageSource]
    folder: str = ""
    """Where class folders are looked for."""

    def fitting(self, spec: InputSpec) -> ReferenceImages:
        """Return images that a contract does not refuse as too small: drawn ones are enlarged, real ones are not."""
        if self.kind == "data":
            return self
        return ReferenceImages(self.kind, [enlarged(np.asarray(image), spec.min_side) for image in self.images])

    def name(self, position: int) -> str:
        """Return what an image is called in a report."""
        image = self.images[position]
        if isinstance(image, str | os.PathLike):
            return os.fspath(image)
        return str(getattr(image, "source", f"drawn image {position}"))

    def patients(self, positions: Sequence[int]) -> npt.NDArray[Any] | None:
        """Return a number for the patient of each image, int (n,), where that is known."""
        return None

    def label(self, position: int, classes: Sequence[str]) -> int | None:
        """Return the index of the class that an image's folder tells, if it does."""
        image = self.images[position]
        name = class_of(image, self.folder, classes) if self.folder and isinstance(image, str) else None
        return None if name is None else classes.index(name)


def fixed_patterns(spec: InputSpec) -> ReferenceImages:
    """Return the patterns that every verdict is given on beside the images."""
    return ReferenceImages("synthetic", list(patterns())).fitting(spec)


def images_of(folder: str | os.PathLike[str] | None, count: int | None = DEFAULT_IMAGES) -> ReferenceImages:
    """Return `count` images (None: all) spread evenly over a folder's, or drawn ones without a folder.

    Raises:
        UsageError: The folder holds no images.
    """
    if folder is None:
        return ReferenceImages("synthetic", drawn_images())
    if not Path(folder).exists():
        raise UsageError(f"{folder}: no such file or folder")
    found = list(find_images(folder))
    if not found:
        raise UsageError(f"{folder}: no images found")
    count = len(found) if count is None else min(count, len(found))
    where = os.fspath(folder) if Path(folder).is_dir() else ""
    return ReferenceImages("data", [found[i * len(found) // count] for i in range(count)], where)
