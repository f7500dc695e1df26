"""What a run is about: explicit paths, and the images under folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from medinfer.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"})
CLUTTER = frozenset({"Thumbs.db", ".DS_Store", "desktop.ini", "__MACOSX"})


class ImageSearch:
    """The inputs of a run, found as they are asked for; made by `find_images`.

    Iterating yields paths: explicit ones as given, then under each folder, recursively and sorted by name, the files
    with an image's suffix or DICOM magic. Every other file is counted in `skipped`. Links to folders are not followed,
    so a loop of links cannot trap a run. A folder that cannot be listed is yielded itself: reading it gives the error.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self.paths = tuple(os.fspath(path) for path in paths)
        self.skipped = 0

    def __iter__(self) -> Iterator[str]:
        self.skipped = 0
        for path in self.paths:
            if os.path.isdir(path):
                yield from self._walk(path)
            else:
                yield path

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            yield folder
            return
        for entry in entries:
            if entry.name in CLUTTER or entry.name.startswith("._"):
                self.skipped += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path)
            elif is_image_name(entry.name) or _has_dicom_magic(entry):
                yield entry.path
            else:
                self.skipped += 1


def find_images(*paths: str | os.PathLike[str]) -> ImageSearch:
    """Return the images among `paths`, which may be files and folders; lazily, in a fixed order.

    Raises:
        UsageError: No path was given.
    """
    if not paths:
        raise UsageError("no path was given")
    return ImageSearch(*paths)


def class_of(path: str, folder: str | os.PathLike[str], classes: Sequence[str]) -> str | None:
    """Return the class whose folder, below `folder`, holds an image: the nearest one that is named like a class."""
    parents = Path(path).relative_to(folder).parts[:-1]
    return next((name for name in reversed(parents) if name in classes), None)


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file is meant to be an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _has_dicom_magic(entry: os.DirEntry[str]) -> bool:
    """Recognise DICOM files, which often have no suffix; looks only into those without one that is well known."""
    if Path(entry.name).suffix.lower() in {".csv", ".json", ".txt", ".md", ".html", ".zip", ".onnx", ".pt"}:
        return False
    try:
        # Not a FIFO or a device: opening one may wait for ever.
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
