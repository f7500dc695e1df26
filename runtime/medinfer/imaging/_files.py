"""Files as bytes: regular ones only, and large ones only if their pixels are worth it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from medinfer.errors import ImageCode, ImageError
from medinfer.imaging._limits import FILE_BYTES, MAX_FILE_BYTES

CODES: dict[int | None, ImageCode] = {
    errno.ENOENT: "not_found",
    errno.EACCES: "permission_denied",
    errno.EISDIR: "not_regular_file",
    errno.ENXIO: "not_regular_file",
}


class Bytes(Protocol):
    """Bytes in memory or in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> bytes: ...


class FileBytes:
    """The bytes of an open file, read when they are sliced."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        ImageError: `not_found`, `permission_denied`, `not_regular_file`, `too_large`, `os_error`.
    """
    return read_checked(path, lambda _: None)


def read_checked(path: str | os.PathLike[str], check: Callable[[FileBytes], None]) -> bytes:
    """Return the bytes of a regular file; one of more than 32 MiB is passed to `check` before it is read.

    Raises:
        ImageError: As `read_file`, and whatever `check` raises.
    """
    with _opened(path) as (file, size):
        if size > MAX_FILE_BYTES:
            raise ImageError("too_large", f"{size} bytes is over the limit of {MAX_FILE_BYTES}")
        if size > FILE_BYTES:
            check(FileBytes(file, size))
            file.seek(0)
        return file.read()


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not_regular_file", "not a regular file")
            yield file, status.st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        code = CODES.get(getattr(error, "errno", None), "os_error")
        raise ImageError(code, getattr(error, "strerror", None) or str(error)) from None
