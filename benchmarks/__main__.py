"""The benchmark suite.

python -m benchmarks run [SETTINGS] [--out FILE.json]     measure: quick, default, offline, cuda, or a .toml file
python -m benchmarks report FILE.json [--out FOLDER]      a Markdown table, plots, a page
python -m benchmarks compare BEFORE.json AFTER.json       what changed beyond noise
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from medinfer.command import Group, run as run_command, tell
from medinfer.errors import UsageError
from medinfer.files import atomic_file
from medinfer.progress import Progress


@click.group(cls=Group, help=__doc__)
def cli() -> None:
    """Hold the parts together."""


@cli.command()
@click.argument("settings", default="default")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/benchmark.json"), show_default=True)
def run(settings: str, out: Path) -> int:
    """Measure what SETTINGS say, and print the tables."""
    from benchmarks.report import markdown
    from benchmarks.settings import load
    from benchmarks.suite import measure_all

    wanted = load(settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Progress("Measuring", enabled=True) as progress:
        results = measure_all(wanted, f"python -m benchmarks {' '.join(sys.argv[1:])}", progress)
    with atomic_file(out) as file:
        json.dump(results, file)
    click.echo(markdown(results))
    tell(f"Wrote {out}")
    return 0


@cli.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A folder for report.html, its plots and table.md.")
def report(results: Path, out: Path | None) -> int:
    """Print the tables of earlier RESULTS; with --out, plots and a page too."""
    from benchmarks.report import markdown, write

    found = _read(results)
    click.echo(markdown(found))
    if out:
        write(found, out)
        tell(f"Wrote {out / 'report.html'}")
    return 0


@cli.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> int:
    """Say what changed from BEFORE to AFTER beyond noise, and which answers no longer agree."""
    from benchmarks.compare import changes

    lines = changes(_read(before), _read(after))
    click.echo("\n".join(lines) if lines else "No change beyond noise, and every answer as before.")
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != 1:
            raise ValueError(f"format {found['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no results of this suite: {error}") from None
    return found


if __name__ == "__main__":
    run_command(cli, "benchmarks")
