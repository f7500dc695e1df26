"""The `medinfer` command. Heavy imports stand inside the commands: `--help` and usage errors need none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medinfer import __version__
from medinfer.command import DEBUG, DISCLAIMER, Group, run, tell
from medinfer.errors import DisagreementError, UsageError

if TYPE_CHECKING:
    from medinfer.model import Model

DEFAULT_COMMAND = "predict"
MOST_TUNED = 256


class Share(click.ParamType[tuple[int, int]]):
    """One job's share of a run: `i/n`, i from 1 to n."""

    name = "I/N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return (i, n)."""
        first, slash, last = str(value).partition("/")
        if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            self.fail(f"{value!r} is not I/N with I from 1 to N", param, ctx)
        return int(first), int(last)


class PredictByDefault(Group):
    """A group whose first word may be left out: `medinfer scan.png` is `medinfer predict scan.png`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command unless a subcommand, or an option of the group, comes first."""
        first = next((word for word in args if word != DEBUG), "--help")
        if first in self.commands:
            if Path(first).exists():
                tell(f"Note: {first!r} is taken as the subcommand; for the path of that name write ./{first}")
        elif first not in ("--help", "-h", "--version"):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=PredictByDefault,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"The word 'predict' may be left out: medinfer folder/ --provider cuda. {DISCLAIMER}",
)
@click.version_option(__version__, prog_name="medinfer")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def cli(debug: bool) -> None:
    """Run an exported medical image classifier exactly as it was trained."""


def _model_options(command: Any) -> Any:
    options = (
        click.option("--model", "-m", type=click.Path(), help="The .onnx file; by default the one in this folder."),
        click.option(
            "--provider", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, tensorrt, openvino."
        ),
        click.option("--threads", type=click.IntRange(min=1), help="Images worked on at once; by default all cores."),
        click.option("--tf32", is_flag=True, help="Let CUDA round to TF32: faster, less exact."),
        click.option("--bf16", is_flag=True, help="Let OpenVINO round to bf16: likewise, on a processor that can."),
        click.option("--quiet", "-q", is_flag=True, help="Say nothing on standard error but errors."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="PATH...")
@_model_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in one run; by default 1 on a CPU, 32 on a GPU.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out names or paths that match: *_mask.png.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "jsonl", "parquet"]),
    help="By default what the output's name says; a table on a terminal, else CSV.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write here: .csv, .jsonl or .parquet.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--resume", is_flag=True, help="Go on with the output of a run that was interrupted.")
@click.option("--shard", type=Share(), help="Do one job's share of the inputs: 2/8 is the second of eight.")
@click.option("--operating-point", metavar="NAME", help="Decide by a threshold that the model carries: youden.")
@click.option("--threshold", type=float, help="Decide by a threshold of your own on p(positive).")
@click.option("--abstain", is_flag=True, help="Say where the model should not be believed: a status in each record.")
@click.option("--heatmaps", type=click.Path(path_type=Path), help="Draw here where in each image its label comes from.")
@click.option("--max-errors", type=click.IntRange(min=0), help="Stop (exit code 3) when more inputs than that fail.")
@click.option("--strict", is_flag=True, help="Stop at the first input that fails: --max-errors 0.")
def predict(
    paths: tuple[str, ...],
    model: str | None,
    provider: str,
    threads: int | None,
    tf32: bool,
    bf16: bool,
    quiet: bool,
    batch_size: int | None,
    exclude: tuple[str, ...],
    kind: str | None,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    shard: tuple[int, int] | None,
    operating_point: str | None,
    threshold: float | None,
    abstain: bool,
    heatmaps: Path | None,
    max_errors: int | None,
    strict: bool,
) -> int:
    """Classify images: one record for each, in order.

    PATH is an image, a folder that is searched recursively, a pattern in quotes, a zip or tar archive, or - for a list
    of paths on standard input. A bad image gives a record that says so; the run goes on and ends with exit code 3.
    """
    from medinfer import inputs
    from medinfer.decision import find_rule
    from medinfer.job import Run, check_output, default_format
    from medinfer.screening import find_screen

    run = Run(kind or default_format(output), batch_size, shard, 0 if strict else max_errors, quiet)
    check_output(output, run.kind, overwrite=overwrite, resume=resume)  # before any work is done
    search = inputs.find_images(*_listed(paths), exclude=exclude)
    if len(paths) == 1 and inputs.is_single(paths[0]):
        threads = 1  # one image starts sooner without a pool of workers
    opened = _open_model(model, provider, threads, tf32=tf32, bf16=bf16, quiet=quiet)
    if threads is None and batch_size is None:
        run = run._replace(batch_size=_tuned(opened, quiet=quiet))
    rule = find_rule(opened.spec, operating_point, threshold)
    screen = find_screen(opened.spec) if abstain else None
    run = run._replace(judges=[judge for judge in (rule, screen) if judge])
    if heatmaps is not None:
        from medinfer.heatmap import HeatmapFolder

        run = run._replace(heatmaps=HeatmapFolder(heatmaps, opened.spec))
    if output is None:
        return run.to_stream(sys.stdout, opened, search)
    return run.to_file(output, opened, search, resume=resume, overwrite=overwrite)


def _tuned(model: Model, *, quiet: bool) -> int | None:
    """Take what `medinfer tune --save` stored for this model here; returns the batch size."""
    from medinfer.tune import saved

    setting = saved(model)
    if setting is None:
        return None
    model.threads = setting.threads
    if not quiet:
        tell(f"As tuned here: --threads {setting.threads} --batch-size {setting.batch_size}")
    return setting.batch_size


def _listed(paths: tuple[str, ...]) -> Iterator[str]:
    """Put the lines of standard input in the place of `-`."""
    for path in paths:
        if path == "-":
            # As bytes: a name need not be text.
            yield from (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())
        else:
            yield path


@cli.command()
@click.argument("model", type=click.Path())
@click.option("--provider", help="Open it there, and say what runs: cpu, cuda, cuda:N, tensorrt, openvino.")
@click.option("--json", "as_json", is_flag=True, help="The contract exactly as it stands in the file.")
def info(model: str, provider: str | None, as_json: bool) -> None:
    """Print a model's contract: classes, preprocessing, calibration, size, where it comes from, how it was verified.

    With --provider also what onnxruntime was told, and how many of the graph's nodes that provider took.
    """
    import json

    from medinfer.model import load

    opened = load(model, provider or "cpu")
    runs = {"provider": opened.provider, "options": opened.provider_options, "nodes": opened.nodes}
    if as_json:
        click.echo(json.dumps({"runs": runs, "spec": opened.spec.to_json()}) if provider else opened.spec.dumps())
        return
    data = {"file": f"{opened.path}, {opened.path.stat().st_size / 1e6:.1f} MB", **opened.spec.to_json()}
    data["golden"] = f"{len(opened.spec.golden or ())} samples"
    click.echo("\n".join(_outline({"runs": runs, **data} if provider else data, json.dumps)))


def _outline(value: Any, dumps: Callable[[Any], str], indent: str = "") -> Iterator[str]:
    """Yield a JSON object as indented lines that a person can read."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{key}:"
            yield from _outline(item, dumps, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield f"{indent}{key}:"
            for entry in item:
                yield f"{indent}  -"
                yield from _outline(entry, dumps, indent + "    ")
        else:
            yield f"{indent}{key}: {item if isinstance(item, str) else dumps(item)}"


@cli.command()
@click.argument("model", type=click.Path())
@click.option("--provider", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, tensorrt, openvino.")
@click.option("--tf32", is_flag=True, help="Let CUDA round to TF32, and judge by what that allows.")
@click.option("--bf16", is_flag=True, help="Let OpenVINO round to bf16, and judge by what that allows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(model: str, provider: str, tf32: bool, bf16: bool, as_json: bool) -> None:
    """Check on this machine that a model still does what it did when it was exported.

    Replays the golden samples inside the file: pixels within one grey level, logits within the tolerance of what
    really runs; else exit code 6. It takes a second and needs neither the checkpoint nor images. `medexport verify`
    is the other one: it compares the file with the checkpoint itself, on as many real images as you like.
    """
    import json

    from medinfer.golden import verify as replay
    from medinfer.model import load

    opened = load(model, provider, tf32=tf32, bf16=bf16)
    report = replay(opened)
    if as_json:
        click.echo(json.dumps({"model": str(opened.path), "provider": opened.provider, **report.to_json()}))
    else:
        click.echo(f"{opened.path} on {opened.provider} ({opened.precision}): {report.as_text()}")
    if not report.passes:
        raise DisagreementError(f"{opened.path} does not reproduce its golden samples on {opened.provider}")


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("folder", type=click.Path(exists=True))
@click.option("--provider", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, tensorrt, openvino.")
@click.option("--save", is_flag=True, help="Store the best for `predict` to take by default, for you on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def tune(model: str, folder: str, provider: str, save: bool, as_json: bool, quiet: bool) -> None:
    """Measure which --threads and --batch-size are fastest here, for MODEL on the images of FOLDER."""
    import json
    from itertools import islice

    from medinfer import tune as tuning
    from medinfer.inputs import find_images, name_of
    from medinfer.progress import Progress

    opened = _open_model(model, provider, None, tf32=False, bf16=False, quiet=quiet)
    images = [name_of(item) for item in islice(find_images(folder), MOST_TUNED)]
    if not images or all(seen.error for seen in opened.predict_many(images[:8])):
        raise UsageError(f"{folder}: no image in it can be read")
    with Progress("Measuring", unit="samples", enabled=not quiet) as progress:
        measured = tuning.measure(opened, images, progress)
    best = tuning.best(measured)
    if as_json:
        rows = [{**one.setting._asdict(), "images_per_second": round(one.rate, 1)} for one in measured]
        click.echo(json.dumps({"best": best.setting._asdict(), "measured": rows}))
    else:
        for one in measured:
            marks = " default" * (one is measured[0]) + " best" * (one is best)
            words = f"--threads {one.setting.threads:2} --batch-size {one.setting.batch_size:3}"
            click.echo(f"{words}  {one.rate:8.1f} images/s {marks}")
    if save:
        tell(f"Stored in {tuning.save(opened, best.setting)}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed and really works here, and the line that mends the rest; exit code 5 if something must."""
    from medinfer.diagnosis import diagnose

    found = diagnose()
    click.echo(found.as_json() if as_json else found.as_text())
    found.require()


@cli.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@_model_options
@click.option("--root", type=click.Path(exists=True, path_type=Path), help="Where the paths of a CSV begin.")
@click.option("--split", help="The rows of a CSV whose column split says so: test.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    data: Path,
    model: str | None,
    provider: str,
    threads: int | None,
    tf32: bool,
    bf16: bool,
    quiet: bool,
    root: Path | None,
    split: str | None,
    as_json: bool,
) -> int:
    """Measure a model on images whose class is known: DATA/CLASS/image, or a CSV with the columns path and label."""
    import json

    import numpy as np

    from medinfer import evaluation
    from medinfer.intervals import known_patients
    from medinfer.job import SOME_FAILED
    from medinfer.labels import find_labelled
    from medinfer.progress import Progress

    opened = _open_model(model, provider, threads, tf32=tf32, bf16=bf16, quiet=quiet)
    known, others = find_labelled(data, opened.classes, root=root, split=split)
    with Progress("Evaluating", len(known), enabled=not quiet) as progress:
        seen = []
        for prediction in opened.predict_many(one.path for one in known):
            seen.append(prediction)
            progress.step()
    answered = [(one, found) for one, found in zip(known, seen, strict=True) if not found.error]
    failed = len(known) - len(answered)
    if not answered:
        raise UsageError(f"{data}: none of {len(known)} images could be read")
    labels = np.array([opened.classes.index(one.label) for one, _ in answered])
    patients = known_patients([one.patient for one, _ in answered])
    probabilities = np.stack([found.scores for _, found in answered if found.scores is not None])
    told = [found.ood_score for _, found in answered]
    scores = None if None in told else np.array(told)
    measured = evaluation.evaluate(labels, probabilities, opened.spec, patients, scores=scores)
    if others and not quiet:
        tell(f"{others} images are of no class of the model and are not counted")
    click.echo(json.dumps({**measured, "failed": failed}) if as_json else evaluation.as_text(measured))
    return SOME_FAILED if failed else 0


def _open_model(model: str | None, provider: str, threads: int | None, *, tf32: bool, bf16: bool, quiet: bool) -> Model:
    """Load the model named, or the one in the working directory, and say what was taken."""
    from medinfer.model import load

    path = model or str(_only_model())
    opened = load(path, provider, threads=threads, tf32=tf32, bf16=bf16)
    _quieten_opencv()
    if not quiet:
        tell(f"Model {path} ({opened.spec.name}: {', '.join(opened.classes)}) on {opened.provider}")
    return opened


def _only_model() -> Path:
    """Return the one .onnx in the working directory; of several the one without a variant suffix (`a.int8.onnx`)."""
    found = sorted(Path().glob("*.onnx"))
    plain = [path for path in found if "." not in path.stem]
    if len(found) == 1 or len(plain) == 1:
        return found[0] if len(found) == 1 else plain[0]
    if not found:
        raise UsageError("no .onnx file in this folder", hint="Name one with --model.")
    raise UsageError(f"several models here: {', '.join(map(str, found))}", hint="Choose one with --model.")


def _quieten_opencv() -> None:
    """Keep OpenCV's log off the terminal and its threads out of the workers' way: a process may decide that."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def main() -> None:
    """Entry point of the `medinfer` command."""
    run(cli, "medinfer")


if __name__ == "__main__":
    main()
