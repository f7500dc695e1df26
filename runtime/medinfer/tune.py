"""How many images at once, and how many in one run? Measured on the machine at hand, for one model and its images."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from medinfer.errors import UsageError
from medinfer.files import atomic_file
from medinfer.model import ACCELERATOR_CHUNK, Model
from medinfer.progress import Progress
from medinfer.stream import available_cores

ROUNDS, SECONDS = 5, 0.6
# What a setting must gain over the default to be worth a change: less than that is the machine's own noise.
WORTH = 1.03


class Setting(NamedTuple):
    """Images worked on at once, and images in one run of the graph."""

    threads: int
    batch_size: int


class Measured(NamedTuple):
    """One setting's images a second, median over the rounds."""

    setting: Setting
    rate: float


def candidates(model: Model) -> list[Setting]:
    """Return the settings worth trying, the default first."""
    cores = available_cores()
    default = Setting(cores, model.default_chunk)
    if model.default_chunk >= ACCELERATOR_CHUNK:
        tried = [Setting(threads, size) for threads in (cores, max(2, cores // 2), 2) for size in (16, 32, 64, 128)]
    else:
        tried = [Setting(threads, size) for threads in (cores, cores + 1) for size in (1, 2, 4)]
    return [default, *(setting for setting in dict.fromkeys(tried) if setting != default)]


def measure(model: Model, images: Sequence[str], progress: Progress | None = None) -> list[Measured]:
    """Return the settings with their speed, in the order of `candidates`.

    Each is tried in every round, so that a machine that slows down slows all of them; the first round warms up.
    """
    progress = progress or Progress("", enabled=False)
    settings = candidates(model)
    progress.total = len(settings) * (ROUNDS + 1)
    rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
    before = model.threads
    try:
        for _ in range(ROUNDS + 1):
            for setting in settings:
                rates[setting].append(_rate(model, setting, images))
                progress.step()
    finally:
        model.threads = before
    return [Measured(setting, statistics.median(found[1:])) for setting, found in rates.items()]


def best(measured: Sequence[Measured]) -> Measured:
    """Return the fastest setting, or the default (the first) unless it is clearly beaten."""
    fastest = max(measured, key=lambda one: one.rate)
    return fastest if fastest.rate > WORTH * measured[0].rate else measured[0]


def save(model: Model, setting: Setting) -> Path:
    """Store a setting for this model on this machine; returns the file."""
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {**_stored(), _key(model): setting._asdict()}
    with atomic_file(path) as file:
        file.write(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    return path


def saved(model: Model) -> Setting | None:
    """Return what was stored for this model on this machine, if anything usable was."""
    found = _stored().get(_key(model), {})
    values: list[Any] = [found.get(name) for name in Setting._fields] if isinstance(found, dict) else []
    # The file is the user's to edit: what makes no sense is as if it were not there.
    return Setting(*values) if values and all(type(value) is int and value > 0 for value in values) else None


def _rate(model: Model, setting: Setting, images: Sequence[str]) -> float:
    model.threads = setting.threads
    start, done = time.monotonic(), 0
    for _ in model.predict_many(_for_a_while(images, start), batch_size=setting.batch_size):
        done += 1
    return done / (time.monotonic() - start)


def _for_a_while(images: Sequence[str], start: float) -> Iterator[str]:
    """Repeat the images until the time is up."""
    for image in cycle(images):
        if time.monotonic() - start > SECONDS:
            return
        yield image


def _stored() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, UsageError):
        return {}
    return found if isinstance(found, dict) else {}


def _file() -> Path:
    try:
        root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:  # in a container, a user may be a number and no more
        raise UsageError("this user has no home folder to keep settings in", hint="Set XDG_CONFIG_HOME.") from None
    return Path(root) / "medonnx" / "tuning.json"


def _key(model: Model) -> str:
    """Tell a model, where it runs and how many cores there are: on another machine another setting is right."""
    contract = sha256(model.spec.dumps().encode("ascii")).hexdigest()[:16]
    return f"{model.spec.name} {contract} {model.provider} {available_cores()} cores"
