"""A run over many inputs: to a stream, or into a file that a kill does not lose; shared out, stopped by failures."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from medinfer import __version__
from medinfer.command import DISCLAIMER, tell
from medinfer.errors import TooManyFailuresError, UsageError
from medinfer.inputs import ImageSearch, name_of, shard
from medinfer.progress import Progress
from medinfer.results import ADDED, Judge, added_by, as_record, record_writer, writer

if TYPE_CHECKING:
    from medinfer.archives import Member
    from medinfer.heatmap import HeatmapFolder
    from medinfer.journal import Journal
    from medinfer.model import Model
    from medinfer.prediction import Prediction

SOME_FAILED = 3
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Run(NamedTuple):
    """One run of `predict`: how its inputs are taken, and how its records are told."""

    kind: str
    batch_size: int | None
    shard: tuple[int, int] | None
    max_errors: int | None
    quiet: bool
    judges: Sequence[Judge] = ()
    heatmaps: HeatmapFolder | None = None

    def to_stream(self, stream: IO[str], model: Model, search: ImageSearch) -> int:
        """Write records as they come; returns the exit code."""
        write = None
        # A table that grows on the terminal is progress enough.
        shown = not self.quiet and not stream.isatty()
        start, done, failed = time.monotonic(), 0, 0
        for prediction in self._predictions(model, search, shown=shown):
            write = write or writer(self.kind, stream, model.classes, self.judges)
            write(prediction)
            done += 1
            failed += prediction.error is not None
        stream.flush()
        return self._finish(done, failed, search, time.monotonic() - start)

    def to_file(self, output: Path, model: Model, search: ImageSearch, *, resume: bool, overwrite: bool) -> int:
        """Write records into a journal, and the finished file from it; returns the exit code."""
        from medinfer.interruption import Interruption
        from medinfer.journal import Journal

        start = time.monotonic()
        share = "{}/{}".format(*self.shard) if self.shard else None
        with Journal(output, header(model, share, self.judges), resume=resume, overwrite=overwrite) as journal:
            before = journal.count
            if before and not self.quiet:
                tell(f"{journal.path}: going on after {before} records")
            with Interruption() as interruption:
                left = takewhile(lambda _: not interruption.requested, remaining(search, journal.done))
                predictions = self._predictions(model, left, shown=not self.quiet, failed=journal.failed)
                for _ in record(journal, predictions, self.judges):
                    pass
                done = journal.count
                if interruption.requested:
                    if not self.quiet:
                        tell(f"{journal.path} holds {done} records: go on with --resume")
                    interruption.leave()
            if done or self.shard:  # a share may be empty, and its file is expected
                render(journal, output, self.kind)
                journal.remove()
            return self._finish(done, journal.failed, search, time.monotonic() - start)

    def _predictions(
        self, model: Model, items: Iterable[str | Member], *, shown: bool, failed: int = 0
    ) -> Iterator[Prediction]:
        items = shard(items, *self.shard) if self.shard else items
        predict = partial(model.predict_many, batch_size=self.batch_size)
        predictions = self.heatmaps.drawn(items, predict) if self.heatmaps else predict(items)
        if self.max_errors is not None:
            predictions = watched(predictions, self.max_errors, failed)
        with Progress("Predicting", enabled=shown) as progress:
            for prediction in predictions:
                yield prediction
                progress.step()

    def _finish(self, done: int, failed: int, search: ImageSearch, seconds: float) -> int:
        if not done and not self.shard:
            raise UsageError(f"no images found under {', '.join(search.paths)} ({search.skipped} other files)")
        if not self.quiet:
            tell(_summary(done, failed, search.skipped, seconds))
        return SOME_FAILED if failed else 0


def default_format(output: Path | None) -> str:
    """Return the format of an output by its name; without one, a table for people and CSV for programs."""
    if output is None:
        return "table" if sys.stdout.isatty() else "csv"
    return SUFFIXES.get(output.suffix.lower(), "csv")


def check_output(output: Path | None, kind: str, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that could not be written, or would replace something unasked; raises UsageError."""
    from medinfer.files import refuse_existing, require_folder

    if output is None:
        if resume or kind == "parquet":
            what = "--resume goes on with" if resume else "parquet goes to"
            raise UsageError(f"{what} a file", hint="Name it with --output.")
        return
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: one keeps what there is, the other drops it", hint="Choose one.")
    if kind == "table":
        raise UsageError(f"{output}: a table is for people", hint="Choose csv, jsonl or parquet.")
    if kind == "parquet":
        import medinfer.parquet  # noqa: F401 - raises MissingExtraError before hours are spent
    from medinfer.journal import journal_path

    require_folder(output)
    interrupted = resume and journal_path(output).exists()
    refuse_existing(output, overwrite=overwrite or interrupted)


def header(model: Model, shard: str | None, judges: Sequence[Judge] = ()) -> dict[str, Any]:
    """Return what all records of a run have in common: which model answered, on what, and which part of the inputs."""
    import cv2
    import numpy as np
    import onnxruntime

    told = {judge.key: judge.to_json() for judge in judges}
    return {
        "model": model.path.name,
        "model_sha256": model.sha256,
        "name": model.spec.name,
        "classes": list(model.classes),
        "provider": model.provider,
        "provider_options": model.provider_options,
        "nodes": model.nodes,
        "precision": model.precision,
        "shard": shard,
        **{key: told.get(key) for key in ADDED},
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


def watched(predictions: Iterable[Prediction], most: int, failed: int) -> Iterator[Prediction]:
    """Pass predictions on; raise TooManyFailuresError after the one that makes more than `most` fail."""
    for prediction in predictions:
        yield prediction
        failed += prediction.error is not None
        if failed > most:
            last = f"{prediction.source}: {prediction.error}"
            raise TooManyFailuresError(f"stopped: {failed} inputs failed, {most} are allowed; the last is {last}")


def record(journal: Journal, predictions: Iterable[Prediction], judges: Sequence[Judge] = ()) -> Iterator[Prediction]:
    """Add predictions to a journal as they come, with what the judges say of them, and pass them on."""
    for prediction in predictions:
        journal.append(as_record(prediction, judges))
        yield prediction


def render(journal: Journal, output: Path, kind: str) -> None:
    """Write the finished file from a journal, whole or not at all.

    What ran stands in Parquet's own metadata; beside CSV and JSONL, in NAME.meta.json.
    """
    told = {name: value for name, value in journal.header.items() if name != "medinfer_journal"}
    told["records"], told["failed"] = journal.count, journal.failed
    journal.sync()
    from medinfer.files import atomic_file  # tempfile, which an answer on the terminal need not wait for

    if kind == "parquet":
        from medinfer.parquet import write_parquet

        write_parquet(journal.records(), output, told)
        return
    with atomic_file(output) as stream:
        write = record_writer(kind, stream, tuple(told["classes"]), added_by(told))
        for one in journal.records():
            write(one)
    with atomic_file(meta_path(output)) as stream:
        stream.write(json.dumps(told, indent=2) + "\n")


def meta_path(output: Path) -> Path:
    """Return NAME.meta.json for NAME."""
    return output.with_name(f"{output.name}.meta.json")


def _summary(done: int, failed: int, skipped: int, seconds: float) -> str:
    parts = [f"{done} images", f"{failed} failed" if failed else "none failed"]
    if skipped:
        parts.append(f"{skipped} other files not looked at")
    return f"{', '.join(parts)}; {seconds:.1f} s. {DISCLAIMER}"
