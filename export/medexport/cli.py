"""The `medexport` command. torch is imported inside the commands: `--help` and usage errors need none of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from medexport import require_torch
from medinfer import __version__
from medinfer.command import DISCLAIMER, Group, run, tell

if TYPE_CHECKING:
    from medexport.reference import ReferenceImages
    from medexport.source import Source
    from medinfer.spec import Agreement


INT8_TAKES_DATA = (
    "int8 takes the folder that was trained on (--data): it is calibrated on training images and judged on test "
    "images, which the run's splits.csv tells apart."
)


class Count(click.ParamType[int | None]):
    """A number of images, or `all`."""

    name = "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what stands for it in the help."""
        return "N|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for all."""
        if value == "all":
            return None
        if not str(value).isdecimal() or int(str(value)) < 1:
            self.fail(f"{value!r} is neither a positive number nor 'all'", param, ctx)
        return int(str(value))


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=DISCLAIMER)
@click.version_option(__version__, prog_name="medexport")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def cli(debug: bool) -> None:
    """Turn a trained checkpoint into one ONNX file that proves it agrees with the original."""


def _verdict_options(command: Any) -> Any:
    options = (
        click.option(
            "--images",
            type=Count(),
            default=64,
            show_default=True,
            help="How many of the images named; of int8 always all test images.",
        ),
        click.option(
            "--splits",
            type=click.Path(path_type=Path),
            help="For int8: the splits.csv of the training run; by default the one beside CHECKPOINT.",
        ),
        click.option("--bisect", is_flag=True, help="If they disagree, name the first node whose value differs."),
        click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON."),
        click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _foreign_options(command: Any) -> Any:
    options = (
        click.option("--weights", type=click.Path(path_type=Path), help="In place of CHECKPOINT: a state_dict."),
        click.option("--arch", help="The network of --weights: torchvision's name, or timm:NAME."),
        click.option("--spec", type=click.Path(path_type=Path), help="TOML: how images are prepared for --weights."),
        click.option("--classes", help="Class names of --weights, in the order of its outputs: a,b,c."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Images to give the verdict on; by default drawn ones.")
@_verdict_options
@click.option("--output", "--out", "-o", type=click.Path(path_type=Path), help="By default ./NAME.onnx for NAME.pt.")
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
@click.option(
    "--input",
    "fed",
    type=click.Choice(["pixels", "float", "image"]),
    default="pixels",
    show_default=True,
    help="What the file takes: raw pixels of its size; floats on [0, 1] (NAME.float.onnx) for tools that feed nothing "
    "else; an image of any size (NAME.image.onnx) for hosts that cannot resize.",
)
@click.option("--static-batch", type=click.IntRange(1, 1024), help="Take only so many images at once.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="What it computes in. fp16 (NAME.fp16.onnx) for GPUs; int8 (NAME.int8.onnx) for CPUs takes --data, the images "
    "that were trained on, and is written only if it keeps labels and AUC and is faster here; else exit code 9.",
)
@click.option("--heatmap", is_flag=True, help="Have it give a map of where in the image each class's logit comes from.")
@click.option("--labels", is_flag=True, help="Write the class names beside it: NAME.labels.txt.")
@click.option("--ort", is_flag=True, help="Write NAME.ort beside it, for onnxruntime's small builds on phones.")
@click.option("--triton", type=click.Path(path_type=Path), help="Add the model to a repository of the Triton server.")
@click.option("--hf", type=click.Path(path_type=Path), help="Write a folder for Hugging Face's optimum.")
@_foreign_options
def onnx(
    checkpoint: Path | None,
    data: Path | None,
    images: int | None,
    bisect: bool,
    as_json: bool,
    quiet: bool,
    output: Path | None,
    overwrite: bool,
    fed: Literal["pixels", "float", "image"],
    static_batch: int | None,
    precision: Literal["fp32", "fp16", "int8"],
    splits: Path | None,
    heatmap: bool,
    labels: bool,
    ort: bool,
    triton: Path | None,
    hf: Path | None,
    weights: Path | None,
    arch: str | None,
    spec: Path | None,
    classes: str | None,
) -> None:
    """Export CHECKPOINT: one file with its preprocessing inside, written only if it agrees with the checkpoint.

    The verdict runs the finished file through medinfer and the checkpoint through torch on the same images. Exit
    code 6, and no file, if they disagree.

    A network that was trained elsewhere: --weights w.pth --arch resnet18 --spec spec.toml --classes a,b,c.
    """
    from medexport.sidecars import Sidecars
    from medinfer.files import refuse_existing

    start = time.monotonic()
    named = _check_source(checkpoint, weights, arch, spec, classes)
    output = _output(named, output, fed, precision)
    _check_precision(precision, data, splits, hf, bisect=bisect)
    sidecars = Sidecars(labels=labels, ort=ort, triton=triton, hf=hf)
    for path in (output, *sidecars.paths(output)):
        refuse_existing(path, overwrite=overwrite)  # before any work is done
    _keep_inputs(output, named, spec)
    require_torch()
    from medexport.build import build_all
    from medinfer.progress import Progress
    from medinfer.spec import Graph

    source = _read(named, arch, spec, classes)
    sidecars.check(source.spec, output)
    reference = _reference(precision, source, named, data, splits, images, quiet=quiet)
    if not quiet:
        tell(f"Exporting {named} to {output} ...")
    batch = static_batch or (1 if fed == "image" else None)
    graph = Graph(input=fed, batch=batch, precision=precision, extra_outputs=("heatmap",) if heatmap else ())
    with Progress("Comparing", enabled=not quiet) as progress:
        written = build_all(source, output, sidecars, graph=graph, images=reference, bisect=bisect, progress=progress)
    if not quiet:
        tell(f"{output} ({output.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s)")
    assert written.agreement is not None
    _report(written.agreement, reference, as_json=as_json, quiet=quiet)


def _reference(
    precision: str,
    source: Source,
    named: Path,
    data: Path | None,
    splits: Path | None,
    images: int | None,
    *,
    quiet: bool,
) -> ReferenceImages:
    """Return what the verdict is given on: of int8 the test images of the run, of others those named."""
    from medexport.reference import images_of

    if precision != "int8":
        return images_of(data, images)
    from medexport.splits import images_of_splits

    if data is None:
        raise click.UsageError(INT8_TAKES_DATA)
    say = (lambda text: None) if quiet else tell
    return images_of_splits(splits or named.with_name("splits.csv"), data, source.spec, say)


def _check_precision(precision: str, data: Path | None, splits: Path | None, hf: Path | None, *, bisect: bool) -> None:
    """Refuse options that do not go together."""
    if splits and precision != "int8":
        raise click.UsageError("--splits goes with --precision int8.")
    if precision == "int8" and data is None:
        raise click.UsageError(INT8_TAKES_DATA)
    if bisect and precision in ("fp16", "int8"):
        raise click.UsageError("--bisect holds each node to what fp32 rounds: leave it or --precision out.")
    if hf and precision != "fp32":
        raise click.UsageError("--hf holds an fp32 model: leave --precision out.")


def _check_source(
    checkpoint: Path | None, weights: Path | None, arch: str | None, spec: Path | None, classes: str | None
) -> Path:
    """Return the file that is exported, having checked that exactly one is named, and all that it takes."""
    if (checkpoint is None) == (weights is None):
        raise click.UsageError("Name a CHECKPOINT that medtrain wrote, or --weights of another network.")
    if checkpoint is not None:
        if any(word is not None for word in (arch, spec, classes)):
            raise click.UsageError("--arch, --spec and --classes go with --weights: a checkpoint knows its own.")
        return checkpoint
    if not arch or not spec:
        raise click.UsageError("--weights takes --arch (which network) and --spec (how its images are prepared).")
    assert weights is not None
    return weights


def _read(named: Path, arch: str | None, spec: Path | None, classes: str | None) -> Source:
    from medexport.source import read_checkpoint, read_weights

    return read_weights(named, arch, spec, _names(classes)) if arch and spec else read_checkpoint(named)


def _names(classes: str | None) -> list[str] | None:
    """Return the names in a list with commas; spaces around them are not part of them."""
    if classes is None:
        return None
    names = [name.strip() for name in classes.split(",")]
    if not all(names):
        raise click.UsageError(f"--classes: {classes!r} names an empty class.")
    return names


def _output(named: Path, output: Path | None, fed: str, precision: str) -> Path:
    """Return the file to write, whose folder exists."""
    from medinfer.files import require_folder

    variants = [word for word in (fed, precision) if word not in ("pixels", "fp32")]
    name = ".".join([named.stem, *variants, "onnx"])
    path = Path(name) if output is None else output / name if output.is_dir() else output
    require_folder(path)
    return path


def _keep_inputs(output: Path, *inputs: Path | None) -> None:
    """Refuse to overwrite what is read."""
    for path in inputs:
        if path is not None and output.exists() and path.exists() and output.samefile(path):
            raise click.UsageError(f"--output: {output} is what is exported. Name another file.")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("originals", nargs=-1, type=click.Path(path_type=Path), metavar="CHECKPOINT [DATA]")
@_verdict_options
@click.option("--provider", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, ...")
@click.option("--tf32", is_flag=True, help="Let CUDA round to TF32, and judge by what that allows.")
@_foreign_options
def verify(
    model: Path,
    originals: tuple[Path, ...],
    images: int | None,
    splits: Path | None,
    bisect: bool,
    as_json: bool,
    quiet: bool,
    provider: str,
    tf32: bool,
    weights: Path | None,
    arch: str | None,
    spec: Path | None,
    classes: str | None,
) -> None:
    """Compare MODEL with the CHECKPOINT it came from, on DATA or on drawn images; exit code 6 if they disagree.

    For --weights of a network that was trained elsewhere: medexport verify MODEL [DATA] --weights ...

    It needs torch and the checkpoint, and takes as many real images as you like. `medinfer verify` is the other one:
    it needs neither, and replays in a second the few samples inside the file on the machine at hand.
    """
    words = [*originals]
    checkpoint = words.pop(0) if words and weights is None else None
    data = words.pop(0) if words else None
    if words:
        raise click.UsageError(f"{words[0]}: one MODEL, one CHECKPOINT and one DATA are compared.")
    named = _check_source(checkpoint, weights, arch, spec, classes)
    if model.suffix == ".ort":
        raise click.UsageError(f"{model}: compare the .onnx that it was made of; medinfer verify replays its samples.")
    require_torch()
    from medexport.bisect import explained
    from medexport.verify import judge
    from medinfer.errors import DisagreementError
    from medinfer.model import load
    from medinfer.progress import Progress

    opened, source = load(model, provider, tf32=tf32), _read(named, arch, spec, classes)
    _check_precision(opened.precision, data, splits, None, bisect=bisect)
    reference = _reference(opened.precision, source, named, data, splits, images, quiet=quiet)
    try:
        with Progress("Comparing", enabled=not quiet) as progress:
            agreement = judge(source, opened, reference, progress)
    except DisagreementError as error:
        raise explained(error, source, model, reference, bisect=bisect) from None
    _report(agreement, reference, as_json=as_json, quiet=quiet)


def _report(agreement: Agreement, reference: ReferenceImages, *, as_json: bool, quiet: bool) -> None:
    from medexport.verify import describe

    if as_json:
        click.echo(json.dumps(agreement.to_json()))
    elif not quiet:
        tell(describe(agreement, reference))


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="By default standard output.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--author", type=click.Path(path_type=Path), help="A TOML file with what only the author can say.")
@click.option("--check", is_flag=True, help="Write nothing; exit 2 and name the author's fields that are missing.")
def card(checkpoint: Path, output: Path | None, overwrite: bool, author: Path | None, check: bool) -> None:
    """Write a CHECKPOINT's model card in Markdown; what its author has not said is marked as missing."""
    require_torch()
    from medexport.card import author as said_by, card as text, missing
    from medexport.source import sha256
    from medinfer.errors import UsageError
    from medinfer.files import atomic_file, refuse_existing
    from medtrain.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    said = said_by(loaded, author)
    absent = missing(said)
    if check:
        if absent:
            raise UsageError(
                f"{checkpoint}: the card lacks {', '.join(absent)}",
                hint="Give them in the recipe, [card], or by --author.",
            )
        click.echo("The card is complete.")
        return
    written = text(loaded, said, sha256(checkpoint))
    if output is None:
        click.echo(written, nl=False)
        return
    refuse_existing(output, overwrite=overwrite)
    with atomic_file(output) as file:
        file.write(written)
    tell(f"Wrote {output}" + (f"; missing: {', '.join(absent)}" if absent else ""))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    default=Path("node_modules/onnxruntime-web"),
    show_default=True,
    help="The folder of the npm package that runs it.",
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
def web(model: Path, folder: Path, runtime: Path, overwrite: bool) -> None:
    """Write a static page that runs MODEL in the browser into FOLDER: drop an image, see its classes.

    Images never leave the machine, and any static server will do: python -m http.server -d FOLDER
    """
    from medexport.browser import write_page
    from medinfer.model import load

    write_page(load(model, "cpu"), folder, runtime, overwrite=overwrite)
    tell(f"Wrote {folder}: serve it, for instance by python -m http.server -d {folder}")


def main() -> None:
    """Entry point of the `medexport` command."""
    run(cli, "medexport")


if __name__ == "__main__":
    main()
