"""A run of the suite: contestants take turns, each in a process of its own, and every answer is held to the checkpoint.

Results are a JSON object: `machine`, `settings`, `command`, `absent` (who could not take part, and why) and `rows`. A
row is one contestant on one subject in one setting, with its `samples` (one for each round, raw) and its `agreement`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.entries import SCRIPTS, Entry, entries
from benchmarks.process import ContestantError, machine, run
from benchmarks.settings import Setting, Settings, combinations
from benchmarks.subjects import Prepared, prepare
from benchmarks.verdict import verdict
from medinfer.progress import Progress

FORMAT = 1
SERVER_ARRIVALS = 100


class Turn(NamedTuple):
    """One row: who, on what, how."""

    subject: Prepared
    entry: Entry
    setting: Setting


def measure_all(settings: Settings, command: str, progress: Progress | None = None) -> dict[str, Any]:
    """Run everything; returns the results.

    Raises:
        UsageError: A contestant is not known, or a subject is not there.
    """
    progress = progress or Progress("", enabled=False)
    taking_part, absent = entries(settings.contestants)
    subjects = [prepare(subject, settings.images) for subject in settings.subjects]
    turns = [
        Turn(subject, entry, setting)
        for subject in subjects
        for setting in combinations(settings)
        for entry in taking_part
        if entry.runs(setting)
    ]
    turns = list(dict.fromkeys(turns))
    idle = [entry.title for entry in taking_part if all(turn.entry != entry for turn in turns)]
    absent |= dict.fromkeys(idle, "runs in none of these settings")
    progress.total = len(turns) * (settings.rounds + 1)
    samples: dict[Turn, list[dict[str, Any]]] = {turn: [] for turn in turns}
    failed: dict[Turn, str] = {}
    for _ in range(settings.rounds + 1):
        for turn in turns:
            if turn not in failed:
                try:
                    samples[turn].append(_sample(turn, settings))
                except ContestantError as error:
                    failed[turn] = error.message
            progress.step()
    rows = [_row(turn, samples[turn], failed.get(turn)) for turn in turns]
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "settings": settings.to_json(),
        "absent": absent,
        "rows": rows,
    }


def _sample(turn: Turn, settings: Settings) -> dict[str, Any]:
    subject, entry, setting = turn
    cold = setting.scenario == "cold"
    task = {
        "scenario": "offline" if cold else setting.scenario,
        "model": str(subject.form(entry.takes).resolve()),
        "images": subject.images[:1] if cold else subject.images,
        "threads": setting.threads,
        "batch": setting.batch or entry.batch,
        "height": subject.spec.input.height,
        "width": subject.spec.input.width,
        "interpolation": subject.spec.input.interpolation,
        "provider": setting.provider,
        "tf32": setting.tf32,
        "arrivals": SERVER_ARRIVALS,
        "p99_ms": settings.p99_ms,
        "setting": entry.setting,
    }
    told = run(entry.python, SCRIPTS / entry.script, task)
    answers = told.pop("answers")
    if len(answers) != len(task["images"]):
        raise ContestantError(f"{entry.script}: answered {len(answers)} of {len(task['images'])} images")
    if entry.agrees:
        precision = told.get("precision", "tf32" if setting.tf32 else "fp32")
        try:
            rows = np.array(answers, np.float32)
        except ValueError as error:
            raise ContestantError(f"{entry.script}: its answers are no table: {error}") from None
        told["agreement"] = verdict(subject, rows, told["kind"], precision)
    return told


def _row(turn: Turn, samples: Sequence[dict[str, Any]], failure: str | None) -> dict[str, Any]:
    """Put a row together; the first round warmed the page cache and is dropped."""
    found = [sample.pop("agreement") for sample in samples if "agreement" in sample]
    worst = max(found, key=lambda one: (not one["agrees"], one["flips"], one["max_difference"] or 0), default=None)
    row = {"subject": turn.subject.name, "contestant": turn.entry.title, **turn.setting.to_json()}
    row |= {"images": 1 if turn.setting.scenario == "cold" else len(turn.subject.images), "agreement": worst}
    return {**row, "failure": failure, "samples": list(samples[1:])}
