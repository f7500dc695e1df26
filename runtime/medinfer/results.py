"""Predictions -> a table for people, CSV or JSONL for programs."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from medinfer.prediction import Prediction

if TYPE_CHECKING:
    from medinfer.decision import Rule

Record = Mapping[str, Any]
FORMATS = ("table", "csv", "jsonl")
DECISION = ("rule", "p_positive", "positive")


def writer(
    kind: str, stream: IO[str], classes: tuple[str, ...], rule: Rule | None = None
) -> Callable[[Prediction], None]:
    """Return what writes one prediction to a stream as `table`, `csv` or `jsonl`; a header goes out at once."""
    if kind == "table":
        return _table(stream, classes, rule)
    write = record_writer(kind, stream, classes, decided=rule is not None)
    return lambda prediction: write(as_record(prediction, rule))


def record_writer(kind: str, stream: IO[str], classes: tuple[str, ...], *, decided: bool) -> Callable[[Record], None]:
    """Return what writes one record to a stream as `csv` or `jsonl`; a header goes out at once.

    Args:
        kind: `csv` or `jsonl`.
        stream: Where to.
        classes: In output order.
        decided: Whether records hold a rule's decision.
    """
    return _csv(stream, classes, decided=decided) if kind == "csv" else _jsonl(stream)


def as_record(prediction: Prediction, rule: Rule | None = None) -> dict[str, Any]:
    """Return a prediction as JSON values, with a rule's decision if one is given; probabilities to six digits."""
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
        if rule:
            record["decision"] = rule.decide(prediction).to_json()
    return record


def columns(classes: Sequence[str], *, decided: bool) -> list[str]:
    """Return the names of a table's columns."""
    decision = DECISION if decided else ()
    return ["path", "label", "probability", "error", "message", *(f"p({name})" for name in classes), *decision]


def _table(stream: IO[str], classes: tuple[str, ...], rule: Rule | None) -> Callable[[Prediction], None]:
    import shutil  # brings the archive formats: 5 ms that only a table is worth

    width = max(len("label"), *map(len, classes))
    decided = f"  {'decision':8}" if rule else ""
    room = max(20, shutil.get_terminal_size().columns - width - len(decided) - 16)
    stream.write(f"{'label':{width}}  probability{decided}  path\n")

    def write(prediction: Prediction) -> None:
        path = _shorten(_printable(prediction.source), room)
        if prediction.error:
            nothing = f"  {'-':8}" if rule else ""
            stream.write(f"{'-':{width}}  {'-':>11}{nothing}  {path}: {prediction.error.code}: {prediction.error}\n")
        else:
            called = f"  {'positive' if rule.decide(prediction).positive else 'negative'}" if rule else ""
            stream.write(f"{prediction.label:{width}}  {prediction.probability:11.4f}{called}  {path}\n")

    return write


def _csv(stream: IO[str], classes: tuple[str, ...], *, decided: bool) -> Callable[[Record], None]:
    def row(values: list[str]) -> None:
        # The csv module quotes a carriage return only if the line ends with one; a file name may hold one.
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(values)
        stream.write(line.getvalue().removesuffix("\r\n") + "\n")

    names = columns(classes, decided=decided)
    row(names)
    nothing = [""] * (len(names) - 5)

    def write(record: Record) -> None:
        if error := record.get("error"):
            row([record["path"], "", "", error["code"], error["message"], *nothing])
        else:
            scores = [f"{value:.6f}" for value in record["probabilities"].values()]
            row([record["path"], record["label"], f"{record['probability']:.6f}", "", "", *scores, *_decision(record)])

    return write


def _decision(record: Record) -> list[str]:
    found = record.get("decision")
    return [found["rule"], f"{found['p_positive']:.6f}", str(found["positive"]).lower()] if found else []


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
