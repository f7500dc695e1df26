"""What a run of the suite measures: a small TOML file, checked before any work."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path

from medinfer.errors import SpecError, UsageError
from medinfer.schema import Schema, schema

FOLDER = Path(__file__).parent / "settings"
PROVIDERS = ("cpu", "cuda")
SCENARIOS = ("cold", "single", "offline", "server")


@schema
class Subject(Schema):
    """A network and the images it answers.

    Attributes:
        name: What rows call it; an untrained network of this name is made unless `checkpoint` is given.
        checkpoint: A ckpt.pt of medtrain.
        data: A folder of images; below the folder that MEDONNX_DATA names if it is not here. Labels are the folders
            that are named like classes. By default drawn images.
    """

    name: str
    checkpoint: str | None = None
    data: str | None = None


@schema
class Settings(Schema):
    """The whole of a run.

    Attributes:
        subjects: Networks and their images.
        contestants: Names in `entries.py`; the limit always takes part.
        scenarios: `cold` is the first answer of a new process, `single` one image after another, `offline` a folder,
            `server` random arrivals.
        providers: cpu, cuda.
        tf32: Each of these, on cuda.
        batches: Images in one run of the graph; 0 leaves it to the contestant.
        threads: Images at once; 0 leaves it to the contestant.
        images: At most so many of a subject's.
        rounds: How often contestants take their turn; one more goes before and is dropped.
        p99_ms: What `server` holds.
    """

    subjects: tuple[Subject, ...]
    contestants: tuple[str, ...] = ("medinfer", "naive")
    scenarios: tuple[str, ...] = ("offline",)
    providers: tuple[str, ...] = ("cpu",)
    tf32: tuple[bool, ...] = (False,)
    batches: tuple[int, ...] = (0,)
    threads: tuple[int, ...] = (0,)
    images: int = 600
    rounds: int = 5
    p99_ms: float = 100.0

    def check(self) -> None:
        """Check what is named."""
        for scenario in self.scenarios:
            if scenario not in SCENARIOS:
                raise SpecError("scenarios", f"{scenario!r} is not one of {', '.join(SCENARIOS)}")
        for provider in self.providers:
            if provider not in PROVIDERS:
                raise SpecError("providers", f"{provider!r} is not one of {', '.join(PROVIDERS)}")
        for name in ("images", "rounds"):
            if getattr(self, name) < 1:
                raise SpecError(name, f"{getattr(self, name)} is less than 1")


@schema
class Setting(Schema):
    """How one row runs, beside who runs and on what."""

    scenario: str
    provider: str = "cpu"
    tf32: bool = False
    batch: int = 0
    threads: int = 0


def load(name: str) -> Settings:
    """Read one of `settings/`, or a file; raises UsageError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return Settings.from_json(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, SpecError) as error:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise UsageError(f"{path}: {error}", hint=f"There is {known}; or name a .toml file.") from None


def combinations(settings: Settings) -> Iterator[Setting]:
    """Yield every way to run, leaving out what means nothing: TF32 on a CPU, batches of single images."""
    axes = (settings.scenarios, settings.providers, settings.tf32, settings.batches, settings.threads)
    seen = set()
    for scenario, provider, tf32, batch, threads in itertools.product(*axes):
        alone = scenario in ("single", "cold", "server")
        one = Setting(
            scenario=scenario,
            provider=provider,
            tf32=tf32 and provider == "cuda",
            batch=0 if alone else batch,
            threads=threads,
        )
        if one not in seen:
            seen.add(one)
            yield one
