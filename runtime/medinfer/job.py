"""A run over many inputs into a file: it can be killed, resumed, shared out, and stopped by too many failures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medinfer import __version__
from medinfer.errors import TooManyFailuresError
from medinfer.files import atomic_file
from medinfer.inputs import name_of
from medinfer.journal import Journal
from medinfer.results import as_record, record_writer

if TYPE_CHECKING:
    from medinfer.archives import Member
    from medinfer.model import Model
    from medinfer.prediction import Prediction

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def header(model: Model, shard: str | None) -> dict[str, Any]:
    """Return what all records of a run have in common: which model answered, on what, and which part of the inputs."""
    import cv2
    import numpy as np
    import onnxruntime

    return {
        "model": model.path.name,
        "model_sha256": model.sha256,
        "name": model.spec.name,
        "classes": list(model.classes),
        "provider": model.provider,
        "precision": model.precision,
        "shard": shard,
        "versions": {
            "medonnx": __version__,
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
        },
    }


def remaining(items: Iterable[str | Member], done: Counter[str]) -> Iterator[str | Member]:
    """Leave out the inputs that a journal has records of, as often as it has them."""
    left = Counter(done)
    for item in items:
        name = name_of(item)
        if left[name]:
            left[name] -= 1
        else:
            yield item


def watched(predictions: Iterable[Prediction], most: int | None, failed: int = 0) -> Iterator[Prediction]:
    """Pass predictions on; raise TooManyFailuresError after the one that makes more than `most` fail."""
    for prediction in predictions:
        yield prediction
        failed += prediction.error is not None
        if most is not None and failed > most:
            last = f"{prediction.source}: {prediction.error}"
            raise TooManyFailuresError(f"stopped: {failed} inputs failed, {most} are allowed; the last is {last}")


def record(journal: Journal, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Add predictions to a journal as they come, and pass them on."""
    for prediction in predictions:
        journal.append(as_record(prediction))
        yield prediction


def render(journal: Journal, output: Path, kind: str) -> None:
    """Write the finished file from a journal, whole or not at all.

    What ran stands in Parquet's own metadata; beside CSV and JSONL, in NAME.meta.json.
    """
    told = {name: value for name, value in journal.header.items() if name != "medinfer_journal"}
    told["records"], told["failed"] = sum(journal.done.values()), journal.failed
    journal.sync()
    if kind == "parquet":
        from medinfer.parquet import write_parquet

        write_parquet(journal.records(), output, told)
        return
    with atomic_file(output) as stream:
        write = record_writer(kind, stream, tuple(told["classes"]))
        for one in journal.records():
            write(one)
    with atomic_file(meta_path(output)) as stream:
        stream.write(json.dumps(told, indent=2) + "\n")


def meta_path(output: Path) -> Path:
    """Return NAME.meta.json for NAME."""
    return output.with_name(f"{output.name}.meta.json")
