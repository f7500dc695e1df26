"""Records -> Parquet, a column for each field; needs the extra `[parquet]` (pyarrow)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medinfer.errors import MissingExtraError
from medinfer.files import atomic_file
from medinfer.results import ADDED, added_by, columns

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError("pyarrow", "parquet") from None

META_KEY = b"medinfer.results"
ROWS = 16384
KINDS = {
    **dict.fromkeys(("path", "label", "error", "message", "rule", "status"), pyarrow.string()),
    "positive": pyarrow.bool_(),
    "set": pyarrow.list_(pyarrow.string()),
    "warnings": pyarrow.list_(pyarrow.string()),
}


def write_parquet(records: Iterable[Mapping[str, Any]], path: Path, header: Mapping[str, Any]) -> None:
    """Write records in groups of rows, so that memory does not grow with their number.

    Columns are those of the CSV; probabilities are float32, what is missing is null. `header` stands as JSON in the
    file's metadata under `medinfer.results`.
    """
    classes, added = header["classes"], added_by(header)
    schema = _schema(classes, added).with_metadata({META_KEY: json.dumps(header).encode("ascii")})
    rows = iter(records)
    with atomic_file(path, binary=True) as file, parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, ROWS)):
            writer.write_table(to_table(chunk, classes, added).replace_schema_metadata(schema.metadata))


def to_table(records: Sequence[Mapping[str, Any]], classes: Sequence[str], added: Sequence[str] = ()) -> pyarrow.Table:
    """Return records as a table with the columns of the CSV."""
    schema = _schema(classes, added)
    values = _values(records, classes)
    return pyarrow.table({name: values[name] for name in schema.names}, schema=schema)


def _schema(classes: Sequence[str], added: Sequence[str]) -> pyarrow.Schema:
    return pyarrow.schema([(name, KINDS.get(name, pyarrow.float32())) for name in columns(classes, added)])


def _values(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, list[Any]]:
    errors = [record.get("error", {}) for record in records]
    return {
        "path": [record["path"] for record in records],
        "label": [record.get("label") for record in records],
        "probability": [record.get("probability") for record in records],
        "error": [error.get("code") for error in errors],
        "message": [error.get("message") for error in errors],
        "warnings": [record.get("warnings", []) for record in records],
        **{f"p({name})": [record.get("probabilities", {}).get(name) for record in records] for name in classes},
        **{
            column: [record.get(key, {}).get(column) for record in records]
            for key, names in ADDED.items()
            for column in names
        },
    }
