"""What a run is about: explicit paths, and the images under folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from medinfer.errors import UsageError

if TYPE_CHECKING:
    from medinfer.archives import Member

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CLUTTER = frozenset({"Thumbs.db", ".DS_Store", "desktop.ini", "__MACOSX", "DICOMDIR"})


class ImageSearch:
    """The inputs of a run, found as they are asked for; made by `find_images`.

    Iterating yields paths: explicit ones as given, then under each folder, recursively and sorted by name, the files
    with an image's suffix or DICOM magic. Every other file is counted in `skipped`. Links to folders are not followed,
    so a loop of links cannot trap a run. A folder that cannot be listed is yielded itself: reading it gives the error.
    What lies in an archive is yielded as its bytes, which know their name.
    """

    def __init__(self, *paths: str | os.PathLike[str], exclude: Sequence[str] = ()) -> None:
        self.paths = tuple(os.fspath(path) for path in paths)
        self.exclude = tuple(exclude)
        self.skipped = 0

    def __iter__(self) -> Iterator[str | Member]:
        self.skipped = 0
        for path in self.paths:
            for found in _expanded(path):
                if os.path.isdir(found):
                    yield from self._walk(found, found)
                elif os.path.isfile(found) and not is_single(found):
                    yield from self._unpacked(found)
                elif self._excluded(found):
                    self.skipped += 1
                else:
                    yield found

    def _unpacked(self, path: str) -> Iterator[Member]:
        from medinfer.archives import read_members  # brings the archive formats: 5 ms

        for member in read_members(path, lambda name: is_image_name(name) and not self._excluded(name)):
            if member is None:
                self.skipped += 1
            else:
                yield member

    def _excluded(self, path: str, root: str = "") -> bool:
        """Tell whether a pattern matches a path's name, the path below the folder searched, or the whole of it."""
        if not self.exclude:
            return False
        words = {os.path.basename(path), path, os.path.relpath(path, root) if root else path}
        return any(fnmatchcase(word, pattern) for pattern in self.exclude for word in words)

    def _walk(self, folder: str, root: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                # Names alone: a hundred thousand entries would take 30 MB.
                kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:
            yield folder
            return
        for name in sorted(kinds):
            path = os.path.join(folder, name)
            if name in CLUTTER or name.startswith("._"):
                self.skipped += 1
            elif kinds[name]:
                if not self._excluded(path, root):
                    yield from self._walk(path, root)
            elif not self._excluded(path, root) and is_image_file(path):
                yield path
            else:
                self.skipped += 1


def find_images(*paths: str | os.PathLike[str], exclude: Sequence[str] = ()) -> ImageSearch:
    """Return the images among `paths`: files, folders, patterns, zip and tar archives; lazily, in a fixed order.

    Args:
        paths: A path that does not exist and holds `*`, `?` or `[` is a pattern; `**` stands for any folders.
        exclude: Patterns of names, or of paths below a folder, that are left out: `*_mask.png`, `masks/*`.

    Raises:
        UsageError: No path was given.
    """
    if not paths:
        raise UsageError("no path was given")
    return ImageSearch(*paths, exclude=exclude)


def shard(items: Iterable[str | Member], index: int, count: int) -> Iterator[str | Member]:
    """Yield the share of a run that one of `count` jobs does, `index` from 1: by a hash of each name.

    The shares of all jobs are disjoint and together the whole, whatever order each finds its files in.
    """
    return (item for item in items if _hash(name_of(item)) % count == index - 1)


def name_of(item: str | Member) -> str:
    """Return what a record calls an input."""
    return item if isinstance(item, str) else item.source


def _hash(name: str) -> int:
    return int.from_bytes(sha256(os.fsencode(name)).digest()[:8], "big")


def _expanded(path: str) -> list[str]:
    """Return what a pattern matches, sorted; a path that exists, or matches nothing, is itself."""
    if os.path.lexists(path) or not any(sign in path for sign in "*?["):
        return [path]
    from glob import glob

    return sorted(glob(path, recursive=True)) or [path]


def class_of(path: str, folder: str | os.PathLike[str], classes: Sequence[str]) -> str | None:
    """Return the class whose folder, below `folder`, holds an image: the nearest one that is named like a class."""
    parents = Path(path).relative_to(folder).parts[:-1]
    return next((name for name in reversed(parents) if name in classes), None)


def is_single(path: str) -> bool:
    """Tell whether a path is one file, and no archive of many."""
    return os.path.isfile(path) and not path.lower().endswith(ARCHIVES)


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file is meant to be an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_image_file(path: str) -> bool:
    """Tell whether a file is meant to be an image: by its suffix, or by its first bytes, since DICOM often has none."""
    return is_image_name(path) or _starts_like_dicom(path)


def _starts_like_dicom(path: str) -> bool:
    from medinfer.imaging import DICOM_START, looks_like_dicom  # brings OpenCV, which listing a folder does without

    # Files that are well known to be something else are not opened.
    if os.path.splitext(path)[1].lower() in {".csv", ".json", ".txt", ".md", ".html", ".zip", ".onnx", ".pt"}:
        return False
    try:
        # Not a FIFO or a device: opening one may wait for ever.
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return looks_like_dicom(file.read(DICOM_START))
    except OSError:
        return False
