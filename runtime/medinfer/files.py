"""Files are written whole or not at all: a full disk or a kill leaves the previous one intact."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from medinfer.errors import UsageError


@contextlib.contextmanager
def atomic_file(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file for writing under a temporary name beside it; flush, sync and rename it at the end.

    Text is UTF-8 with newlines as written; what UTF-8 cannot hold is escaped.

    Raises:
        UsageError: The folder does not exist.
    """
    require_folder(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    text = {} if binary else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    try:
        with os.fdopen(descriptor, "wb" if binary else "w", **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename_durably(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename into place with the permissions a new file gets, and sync the folder so that the name survives a crash."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def require_folder(path: Path) -> None:
    """Raise UsageError where the folder that a file would lie in does not exist."""
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", hint="Create it first.")


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError where a result would be overwritten unasked, or a folder is in its place."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder", hint="Name a file.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists already", hint="Pass --overwrite to replace it, or name another file.")
