"""Predictions -> a table for people, CSV or JSONL for programs."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable
from typing import IO

from medinfer.prediction import Prediction

Write = Callable[[Prediction], None]
FORMATS = ("table", "csv", "jsonl")


def writer(kind: str, stream: IO[str], classes: tuple[str, ...]) -> Write:
    """Return what writes one prediction to a stream as `table`, `csv` or `jsonl`; a header goes out at once."""
    return {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind](stream, classes)


def _table(stream: IO[str], classes: tuple[str, ...]) -> Write:
    import shutil  # brings the archive formats: 5 ms that only a table is worth

    width = max(len("label"), *map(len, classes))
    room = max(20, shutil.get_terminal_size().columns - width - 16)
    stream.write(f"{'label':{width}}  probability  path\n")

    def write(prediction: Prediction) -> None:
        path = _shorten(_printable(prediction.source), room)
        if prediction.error:
            stream.write(f"{'-':{width}}  {'-':>11}  {path}: {prediction.error.code}: {prediction.error}\n")
        else:
            stream.write(f"{prediction.label:{width}}  {prediction.probability:11.4f}  {path}\n")

    return write


def _csv(stream: IO[str], classes: tuple[str, ...]) -> Write:
    def row(values: list[str]) -> None:
        # The csv module quotes a carriage return only if the line ends with one; a file name may hold one.
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(values)
        stream.write(line.getvalue().removesuffix("\r\n") + "\n")

    row(["path", "label", "probability", "error", "message", *(f"p({name})" for name in classes)])

    def write(prediction: Prediction) -> None:
        path = _readable(prediction.source)
        if prediction.error:
            row([path, "", "", prediction.error.code, str(prediction.error), *("" for _ in classes)])
        else:
            scores = [f"{value:.6f}" for value in prediction.probabilities.values()]
            row([path, prediction.label, f"{prediction.probability:.6f}", "", "", *scores])

    return write


def _jsonl(stream: IO[str], classes: tuple[str, ...]) -> Write:
    def write(prediction: Prediction) -> None:
        record: dict[str, object] = {"path": _readable(prediction.source)}
        if prediction.source is not None and record["path"] != prediction.source:
            # The name is not UTF-8: this is how a program gets its bytes back.
            record["path_base64"] = base64.b64encode(os.fsencode(prediction.source)).decode("ascii")
        if prediction.error:
            record["error"] = {"code": prediction.error.code, "message": str(prediction.error)}
        else:
            record["label"] = prediction.label
            record["probability"] = round(prediction.probability, 6)
            record["probabilities"] = {name: round(value, 6) for name, value in prediction.probabilities.items()}
        stream.write(json.dumps(record) + "\n")

    return write


def _readable(source: str | None) -> str:
    """Return a path as UTF-8 can hold it: bytes that are not text become backslash escapes."""
    try:
        return os.fsencode(source or "").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, which no file name holds but a caller's string may
        return (source or "").encode("utf-8", "backslashreplace").decode("utf-8")


def _printable(source: str | None) -> str:
    """Return a path for a terminal: control characters in a file name must not command it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _readable(source))


def _shorten(path: str, room: int) -> str:
    return path if len(path) <= room else "..." + path[3 - room :]
