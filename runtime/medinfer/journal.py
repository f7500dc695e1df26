"""Long results grow as a journal, so that a kill at any moment loses no finished record and the next run goes on.

`NAME.part` beside the result `NAME` is JSONL: first a header that tells which model, provider and versions answered,
then a record for each input. The finished CSV, JSONL or Parquet is rendered from it, and then it is removed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medinfer.errors import ResourceError, UsageError

FORMAT = 1
# What must be the same for records of two runs to stand in one file.
IDENTITY = ("medinfer_journal", "model_sha256", "provider", "precision", "shard", "decision", "screening")
SYNC_SECONDS = 30.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Record = dict[str, Any]


class Journal:
    """The growing results of one run; a context manager.

    Args:
        output: The result that is wanted; the journal stands beside it.
        header: What the records have in common.
        resume: Go on with an interrupted run's.
        overwrite: Drop an interrupted run's.

    Raises:
        UsageError: An interrupted run's journal is in the way, is of another model, provider or shard, is damaged, or
            another process is writing it.
        ResourceError: The disk is full.
    """

    def __init__(
        self, output: Path, header: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path = journal_path(output)
        self.header = {"medinfer_journal": FORMAT, **header}
        self.done: Counter[str] = Counter()
        """How many records there were of each key when it was opened."""
        self.count = 0
        """How many records there are."""
        self.failed = 0
        """How many of them are errors."""
        left = self.path.exists()
        if left and not resume and not overwrite:
            hint = "Go on with --resume, or start afresh with --overwrite."
            raise UsageError(f"{self.path}: an interrupted run left it", hint=hint)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._file, self.path)
            self._end = self._read() if left and resume else 0
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            if not self._end:
                self._write(self.header)
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def append(self, record: Record) -> None:
        """Add a record; raises ResourceError, and keeps whole lines only, if the disk is full."""
        self._write(record)
        self.count += 1
        self.failed += "error" in record
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have what was appended survive a loss of power."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def records(self) -> Iterator[Record]:
        """Yield every record, in the order in which they were appended."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def remove(self) -> None:
        """Remove it: its records stand in a finished file."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.count:
            self.remove()  # nothing to go on with
        os.close(self._file)

    def _write(self, value: Mapping[str, Any]) -> None:
        data = json.dumps(value).encode("ascii") + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                os.write(self._file, data[written:])  # the disk is full: this says so
        except OSError as error:
            os.ftruncate(self._file, self._end)
            if error.errno in FULL:
                hint = "Free some disk space, then go on with --resume."
                raise ResourceError(f"{self.path}: {error.strerror}", hint=hint) from None
            raise
        self._end += len(data)

    def _read(self) -> int:
        """Take in what is there, and return where its last whole line ends."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # torn by a kill
                value = _parsed(line, f"{self.path}: line {number}")
                if number == 1:
                    self._check_header(value)
                else:
                    self.done[key_of(value)] += 1
                    self.count += 1
                    self.failed += "error" in value
                end += len(line)
        return end

    def _check_header(self, found: Mapping[str, Any]) -> None:
        differing = [name for name in IDENTITY if found.get(name) != self.header.get(name)]
        if differing:
            told = "; ".join(f"{name} was {found.get(name)}, now {self.header.get(name)}" for name in differing)
            hint = "Start afresh with --overwrite, or name another file."
            raise UsageError(f"{self.path}: of another run: {told}", hint=hint)


def journal_path(output: Path) -> Path:
    """Return NAME.part for NAME."""
    return output.with_name(f"{output.name}.part")


def key_of(record: Mapping[str, Any]) -> str:
    """Return what a record is known by: its input's name, with what UTF-8 cannot hold as Python holds it."""
    if "path_base64" in record:
        return os.fsdecode(base64.b64decode(record["path_base64"]))
    return str(record["path"])


def _parsed(line: bytes, where: str) -> Record:
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or not ("path" in value or "medinfer_journal" in value):
            raise ValueError
    except ValueError:
        raise UsageError(f"{where}: damaged", hint="Start afresh with --overwrite.") from None
    return value


def _lock(file: int, path: Path) -> None:
    """Refuse to write what another process is writing. Where there are no such locks, nothing is checked."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{path}: another process is writing it") from None
