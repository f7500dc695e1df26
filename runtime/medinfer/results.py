"""Predictions -> a table for people, CSV or JSONL for programs."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Protocol

from medinfer.prediction import Prediction

Record = Mapping[str, Any]
FORMATS = ("table", "csv", "jsonl")
# What a judge may add to a record, and the columns that it becomes in a table.
ADDED = {"decision": ("rule", "p_positive", "positive"), "screening": ("status", "set", "ood_score")}


class Judgement(Protocol):
    """What a judge says of one image."""

    @property
    def word(self) -> str: ...  # noqa: D102

    def to_json(self) -> dict[str, Any]: ...  # noqa: D102


class Judge(Protocol):
    """What adds its own part to each record: a `decision.Rule`, a `screening.Screen`."""

    @property
    def key(self) -> str: ...  # noqa: D102 - the part's name, in a record and in the header

    @property
    def width(self) -> int: ...  # noqa: D102 - of its longest word

    def decide(self, prediction: Prediction) -> Judgement: ...  # noqa: D102

    def to_json(self) -> dict[str, Any]: ...  # noqa: D102 - for the header


def writer(
    kind: str, stream: IO[str], classes: tuple[str, ...], judges: Sequence[Judge] = ()
) -> Callable[[Prediction], None]:
    """Return what writes one prediction to a stream as `table`, `csv` or `jsonl`; a header goes out at once."""
    if kind == "table":
        return _table(stream, classes, judges)
    write = record_writer(kind, stream, classes, [judge.key for judge in judges])
    return lambda prediction: write(as_record(prediction, judges))


def record_writer(
    kind: str, stream: IO[str], classes: tuple[str, ...], added: Sequence[str] = ()
) -> Callable[[Record], None]:
    """Return what writes one record to a stream as `csv` or `jsonl`; a header goes out at once.

    Args:
        kind: `csv` or `jsonl`.
        stream: Where to.
        classes: In output order.
        added: What judges added to the records.
    """
    return _csv(stream, classes, added) if kind == "csv" else _jsonl(stream)


def as_record(prediction: Prediction, judges: Sequence[Judge] = ()) -> dict[str, Any]:
    """Return a prediction as JSON values, with what each judge says of it; probabilities to six digits."""
    record: dict[str, Any] = {"path": _readable(prediction.source)}
    if prediction.source is not None and record["path"] != prediction.source:
        # The name is not UTF-8: this is how a program gets its bytes back.
        record["path_base64"] = base64.b64encode(os.fsencode(prediction.source)).decode("ascii")
    if prediction.error:
        record["error"] = {"code": prediction.error.code, "message": str(prediction.error)}
    else:
        record["label"] = prediction.label
        record["probability"] = round(prediction.probability, 6)
        record["probabilities"] = {name: round(value, 6) for name, value in prediction.probabilities.items()}
        record["warnings"] = list(prediction.warnings)
        record |= {judge.key: judge.decide(prediction).to_json() for judge in judges}
    return record


def columns(classes: Sequence[str], added: Sequence[str] = ()) -> list[str]:
    """Return the names of a table's columns."""
    more = (column for key in added for column in ADDED[key])
    return ["path", "label", "probability", "error", "message", "warnings", *(f"p({name})" for name in classes), *more]


def added_by(header: Record) -> list[str]:
    """Return what the judges that a results file's header names add to its records."""
    return [key for key in ADDED if header.get(key) is not None]


def _table(stream: IO[str], classes: tuple[str, ...], judges: Sequence[Judge]) -> Callable[[Prediction], None]:
    import shutil  # brings the archive formats: 5 ms that only a table is worth

    width = max(len("label"), *map(len, classes))
    titles = "".join(f"  {judge.key:{judge.width}}" for judge in judges)
    nothing = "".join(f"  {'-':{judge.width}}" for judge in judges)
    room = max(20, shutil.get_terminal_size().columns - width - len(titles) - 16)
    stream.write(f"{'label':{width}}  probability{titles}  path\n")

    def write(prediction: Prediction) -> None:
        path = _shorten(_printable(prediction.source), room)
        if prediction.error:
            stream.write(f"{'-':{width}}  {'-':>11}{nothing}  {path}: {prediction.error.code}: {prediction.error}\n")
        else:
            words = "".join(f"  {judge.decide(prediction).word:{judge.width}}" for judge in judges)
            warnings = f"  ({', '.join(prediction.warnings)})" if prediction.warnings else ""
            stream.write(f"{prediction.label:{width}}  {prediction.probability:11.4f}{words}  {path}{warnings}\n")

    return write


def _csv(stream: IO[str], classes: tuple[str, ...], added: Sequence[str]) -> Callable[[Record], None]:
    def row(values: list[str]) -> None:
        # The csv module quotes a carriage return only if the line ends with one; a file name may hold one.
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(values)
        stream.write(line.getvalue().removesuffix("\r\n") + "\n")

    names = columns(classes, added)
    row(names)
    nothing = [""] * (len(names) - 5)

    def write(record: Record) -> None:
        if error := record.get("error"):
            row([record["path"], "", "", error["code"], error["message"], *nothing])
        else:
            scores = [f"{value:.6f}" for value in record["probabilities"].values()]
            more = [_cell(record[key][column]) for key in added for column in ADDED[key]]
            warnings = _cell(record.get("warnings", []))
            row([record["path"], record["label"], f"{record['probability']:.6f}", "", "", warnings, *scores, *more])

    return write


def _cell(value: str | bool | float | list[str]) -> str:
    if isinstance(value, list):
        return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:.6f}"


def _jsonl(stream: IO[str]) -> Callable[[Record], None]:
    def write(record: Record) -> None:
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
