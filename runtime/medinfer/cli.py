"""The `medinfer` command. Heavy imports stand inside the commands: `--help` and usage errors need none of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from medinfer import __version__
from medinfer.command import DEBUG, DISCLAIMER, Group, run, tell
from medinfer.errors import DisagreementError, UsageError

if TYPE_CHECKING:
    from medinfer.inputs import ImageSearch
    from medinfer.model import Model

DEFAULT_COMMAND = "predict"
SOME_FAILED = 3


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
        click.option("--quiet", "-q", is_flag=True, help="Say nothing on standard error but errors."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="PATH...")
@_model_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in one run; by default 1 on a CPU, 32 on a GPU.")
@click.option(
    "--format", "kind", type=click.Choice(["table", "csv", "jsonl"]), help="By default a table on a terminal, else CSV."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write here, whole or not at all (.csv, .jsonl).")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
def predict(
    paths: tuple[str, ...],
    model: str | None,
    provider: str,
    threads: int | None,
    tf32: bool,
    quiet: bool,
    batch_size: int | None,
    kind: str | None,
    output: Path | None,
    overwrite: bool,
) -> int:
    """Classify images: one record for each, in order.

    PATH is an image, or a folder that is searched recursively. A bad image gives a record that says so; the run goes
    on and ends with exit code 3.
    """
    from medinfer.inputs import find_images

    if output:
        from medinfer.files import refuse_existing

        refuse_existing(output, overwrite=overwrite)  # before any work is done
    search = find_images(*paths)
    if len(paths) == 1 and not Path(paths[0]).is_dir():
        threads = 1  # one image starts sooner without a pool of workers
    opened = _open_model(model, provider, threads, tf32=tf32, quiet=quiet)
    with _destination(output) as stream:
        kind = kind or _default_format(output, stream)
        return _predict_to(stream, kind, opened, search, batch_size, quiet=quiet)


def _predict_to(
    stream: IO[str], kind: str, model: Model, search: ImageSearch, batch_size: int | None, *, quiet: bool
) -> int:
    from medinfer.progress import Progress
    from medinfer.results import writer

    start, done, failed = time.monotonic(), 0, 0
    write = None
    # A table that grows on the terminal is progress enough.
    shown = not quiet and not stream.isatty()
    with Progress("Predicting", enabled=shown) as progress:
        for prediction in model.predict_many(search, batch_size=batch_size):
            write = write or writer(kind, stream, model.classes)
            write(prediction)
            done += 1
            failed += prediction.error is not None
            progress.step()
    if not done:
        raise UsageError(f"no images found under {', '.join(search.paths)} ({search.skipped} other files)")
    stream.flush()
    if not quiet:
        tell(_summary(done, failed, search.skipped, time.monotonic() - start))
    return SOME_FAILED if failed else 0


def _summary(done: int, failed: int, skipped: int, seconds: float) -> str:
    parts = [f"{done} images", f"{failed} failed" if failed else "none failed"]
    if skipped:
        parts.append(f"{skipped} other files not looked at")
    return f"{', '.join(parts)}; {seconds:.1f} s. {DISCLAIMER}"


@cli.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The contract exactly as it stands in the file.")
def info(model: str, as_json: bool) -> None:
    """Print a model's contract: classes, preprocessing, calibration, where it comes from, how it was verified."""
    import json

    from medinfer.model import load

    spec = load(model, "cpu").spec
    if as_json:
        click.echo(spec.dumps())
        return
    data = spec.to_json()
    data["golden"] = f"{len(spec.golden or ())} samples"
    click.echo("\n".join(_outline(data, json.dumps)))


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(model: str, provider: str, tf32: bool, as_json: bool) -> None:
    """Check on this machine that a model still does what it did when it was exported.

    Replays the golden samples inside the file: pixels within one grey level, logits within the tolerance of what
    really runs; else exit code 6. It takes a second and needs neither the checkpoint nor images. `medexport verify`
    is the other one: it compares the file with the checkpoint itself, on as many real images as you like.
    """
    import json

    from medinfer.golden import verify as replay
    from medinfer.model import load

    opened = load(model, provider, tf32=tf32)
    report = replay(opened)
    if as_json:
        click.echo(json.dumps({"model": str(opened.path), "provider": opened.provider, **report.to_json()}))
    else:
        click.echo(f"{opened.path} on {opened.provider} ({opened.precision}): {report.as_text()}")
    if not report.passes:
        raise DisagreementError(f"{opened.path} does not reproduce its golden samples on {opened.provider}")


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    folder: str, model: str | None, provider: str, threads: int | None, tf32: bool, quiet: bool, as_json: bool
) -> int:
    """Measure a model on class folders: FOLDER/CLASS/image."""
    import json

    import numpy as np

    from medinfer.inputs import class_of, find_images, name_of
    from medinfer.metrics import as_text, measure
    from medinfer.progress import Progress

    opened = _open_model(model, provider, threads, tf32=tf32, quiet=quiet)
    labels, scores, failed = [], [], 0
    found = list(find_images(folder))
    labelled = [path for path in map(name_of, found) if class_of(path, folder, opened.classes)]
    with Progress("Evaluating", len(labelled), enabled=not quiet) as progress:
        for seen in opened.predict_many(labelled):
            progress.step()
            failed += seen.error is not None
            if seen.scores is not None:
                labels.append(opened.classes.index(class_of(seen.source or "", folder, opened.classes) or ""))
                scores.append(seen.scores)
    if not labels:
        hint = f"Expected folders named {', '.join(opened.classes)}."
        raise UsageError(f"{folder}: no labelled image could be read", hint=hint)
    measured = measure(np.array(labels), np.stack(scores), opened.classes, opened.spec.positive)
    if len(labelled) < len(found):
        tell(f"{len(found) - len(labelled)} images lie in no class's folder and are not counted")
    click.echo(json.dumps({**measured, "failed": failed}) if as_json else as_text(measured))
    return SOME_FAILED if failed else 0


def _open_model(model: str | None, provider: str, threads: int | None, *, tf32: bool, quiet: bool) -> Model:
    """Load the model named, or the one in the working directory, and say what was taken."""
    from medinfer.model import load

    path = model or str(_only_model())
    opened = load(path, provider, threads=threads, tf32=tf32)
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


@contextlib.contextmanager
def _destination(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
    else:
        from medinfer.files import atomic_file

        with atomic_file(output) as stream:
            yield stream


def _default_format(output: Path | None, stream: IO[str]) -> str:
    if output is not None:
        return "jsonl" if output.suffix.lower() in (".jsonl", ".ndjson") else "csv"
    return "table" if stream.isatty() else "csv"


def main() -> None:
    """Entry point of the `medinfer` command."""
    run(cli, "medinfer")


if __name__ == "__main__":
    main()
