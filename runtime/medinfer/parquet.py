"""Records -> Parquet, a column for each field; needs the extra `[parquet]` (pyarrow)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medinfer.errors import MissingExtraError
from medinfer.files import atomic_file
from medinfer.results import columns

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError("pyarrow", "parquet") from None

META_KEY = b"medinfer.results"
ROWS = 16384
TEXTS = ("path", "label", "error", "message")


def write_parquet(records: Iterable[Mapping[str, Any]], path: Path, header: Mapping[str, Any]) -> None:
    """Write records in groups of rows, so that memory does not grow with their number.

    Columns are those of the CSV; probabilities are float32, what is missing is null. `header` stands as JSON in the
    file's metadata under `medinfer.results`.
    """
    classes = header["classes"]
    schema = _schema(classes).with_metadata({META_KEY: json.dumps(header).encode("ascii")})
    rows = iter(records)
    with atomic_file(path, binary=True) as file, parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, ROWS)):
            writer.write_table(to_table(chunk, classes).replace_schema_metadata(schema.metadata))


def to_table(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> pyarrow.Table:
    """Return records as a table with the columns of the CSV."""
    return pyarrow.table(_values(records, classes), schema=_schema(classes))


def _schema(classes: Sequence[str]) -> pyarrow.Schema:
    return pyarrow.schema([(n, pyarrow.string() if n in TEXTS else pyarrow.float32()) for n in columns(classes)])


def _values(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, list[Any]]:
    errors = [record.get("error", {}) for record in records]
    return {
        "path": [record["path"] for record in records],
        "label": [record.get("label") for record in records],
        "probability": [record.get("probability") for record in records],
        "error": [error.get("code") for error in errors],
        "message": [error.get("message") for error in errors],
        **{f"p({name})": [record.get("probabilities", {}).get(name) for record in records] for name in classes},
    }
