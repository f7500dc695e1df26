"""Images whose class is known: by the folder that holds them, or by a table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medinfer.errors import UsageError
from medinfer.inputs import class_of, find_images, name_of


class Labelled(NamedTuple):
    """One image, its class, and its patient where that is known."""

    path: str
    label: str
    patient: str | None = None


def find_labelled(
    source: Path, classes: Sequence[str], *, root: Path | None = None, split: str | None = None
) -> tuple[list[Labelled], int]:
    """Return the images whose class is known, and how many others there are.

    Args:
        source: A folder of class folders; or a CSV with the columns `path` and `label`, and optionally `patient` and
            `split`.
        classes: The classes that count; images of others are the others.
        root: Where the CSV's paths begin; by default its own folder.
        split: Rows of that split alone.

    Raises:
        UsageError: The table cannot be read or lacks a column; no image has a known class.
    """
    if source.is_dir():
        if split is not None or root is not None:
            raise UsageError("--split and --root are of a table", hint=f"{source} is a folder; name its splits.csv.")
        found = [name_of(item) for item in find_images(source)]
        known = [Labelled(path, label) for path in found if (label := class_of(path, source, classes))]
        others = len(found) - len(known)
    else:
        rows = _labelled(source, root or source.parent, split)
        known = [row for row in rows if row.label in classes]
        others = len(rows) - len(known)
    if not known:
        raise UsageError(f"{source}: no image of a known class", hint=f"Expected {', '.join(classes)}.")
    return known, others


def read_rows(table: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV, each with the number of its line; names and values without the blanks around them.

    Raises:
        UsageError: The table cannot be read, lacks a required column, or has one twice.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: {getattr(error, 'strerror', None) or error}") from None
    lacking = sorted(set(required) - set(columns))
    if lacking:
        hint = f"The first line names the columns; it has {', '.join(columns) or 'none'}."
        raise UsageError(f"{table}: no column {' and '.join(lacking)}", hint=hint)
    if len(set(columns)) < len(columns):
        raise UsageError(f"{table}: a column stands twice: {', '.join(columns)}")
    return [(line, {name: (value or "").strip() for name, value in row.items() if name}) for line, row in rows]


def _labelled(table: Path, root: Path, split: str | None) -> list[Labelled]:
    rows = read_rows(table, ["path", "label", *([] if split is None else ["split"])])
    empty = next((line for line, row in rows if not row["path"] or not row["label"]), None)
    if empty:
        raise UsageError(f"{table}: line {empty} lacks a path or a label")
    found = [
        Labelled(str(root / row["path"]), row["label"], row.get("patient") or None)
        for _, row in rows
        if split is None or row["split"] == split
    ]
    twice = [path for path, count in Counter(one.path for one in found).items() if count > 1]
    if twice:
        raise UsageError(f"{table}: {twice[0]} stands in it more than once")
    return found
