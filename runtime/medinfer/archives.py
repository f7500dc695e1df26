"""Images inside zip and tar archives, read one after the other and never unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Self

from medinfer.errors import ImageError
from medinfer.imaging import MAX_FILE_BYTES

# What damaged or encrypted archives make their readers raise.
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError)


class Member(bytes):
    """The bytes of one file in an archive. `source` is ARCHIVE/NAME; `error` says why the bytes are missing."""

    source: str
    error: ImageError | None

    def __new__(cls, data: bytes, source: str, error: ImageError | None = None) -> Self:
        """Return the bytes with their name."""
        member = super().__new__(cls, data)
        member.source, member.error = source, error
        return member


def read_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Member | None]:
    """Yield the files in an archive that are wanted by their names, in its order, and None for each that is not.

    A member that cannot be read has its `error` set; so has one named like the archive if the archive ends early or is
    no archive at all.
    """
    try:
        yield from _zip_members(path, wanted) if path.lower().endswith(".zip") else _tar_members(path, wanted)
    except UNREADABLE as error:
        yield Member(b"", path, ImageError("corrupt", f"not a whole archive: {error}"))


def _zip_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Member | None]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if not wanted(entry.filename):
                yield None
                continue
            try:
                with archive.open(entry) as file:
                    yield _read(file, entry.file_size, f"{path}/{entry.filename}")
            except UNREADABLE as error:
                # RuntimeError is how zipfile says that a password is needed.
                yield Member(b"", f"{path}/{entry.filename}", ImageError("corrupt", f"in the archive: {error}"))


def _tar_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Member | None]:
    with tarfile.open(path, "r|*") as archive:  # as a stream: a compressed one has no other order
        for entry in archive:
            if entry.isdir():
                continue
            file = archive.extractfile(entry) if entry.isreg() and wanted(entry.name) else None
            yield None if file is None else _read(file, entry.size, f"{path}/{entry.name}")


def _read(file: IO[bytes], size: int, source: str) -> Member:
    if size > MAX_FILE_BYTES:
        return Member(b"", source, ImageError("too_large", f"{size} bytes is over the limit of {MAX_FILE_BYTES}"))
    # What an archive says of a size need not be true: one byte more than said shows it, and no bomb goes off.
    data = file.read(size + 1)
    if len(data) != size:
        return Member(b"", source, ImageError("corrupt", f"in the archive: {len(data)} bytes in place of {size}"))
    return Member(data, source)
