"""The `medexport` command. torch is imported inside the commands: `--help` and usage errors need none of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medinfer import __version__
from medinfer.command import DISCLAIMER, Group, run, tell
from medinfer.errors import MissingExtraError

if TYPE_CHECKING:
    from medinfer.spec import Agreement


class Count(click.ParamType[int | None]):
    """A number of images, or `all`."""

    name = "N|all"

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


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Images to give the verdict on; by default drawn ones.")
@click.option("--images", type=Count(), default=64, show_default=True, help="How many of them, or all.")
@click.option("--output", "--out", "-o", type=click.Path(path_type=Path), help="By default ./NAME.onnx for NAME.pt.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def onnx(
    checkpoint: Path,
    data: Path | None,
    images: int | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Export CHECKPOINT: one file with its preprocessing inside, written only if it agrees with the checkpoint.

    The verdict runs the finished file through medinfer and the checkpoint through torch on the same images. Exit
    code 6, and no file, if they disagree.
    """
    from medinfer.files import refuse_existing

    start = time.monotonic()
    output = output or Path(f"{checkpoint.stem}.onnx")
    if output.is_dir():
        output = output / f"{checkpoint.stem}.onnx"
    refuse_existing(output, overwrite=overwrite)  # before any work is done
    _require_torch()
    from medexport.build import export
    from medexport.source import read_checkpoint
    from medexport.verify import images_of

    source = read_checkpoint(checkpoint)
    agreement = export(source, output, images=images_of(data, images), overwrite=overwrite).agreement
    assert agreement is not None
    if not quiet:
        size = output.stat().st_size / 1e6
        tell(f"{output} ({size:.1f} MB, {time.monotonic() - start:.0f} s)")
    _report(agreement, as_json=as_json, quiet=quiet)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--images", type=Count(), default=64, show_default=True, help="How many of DATA, or all.")
@click.option("--provider", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def verify(model: Path, checkpoint: Path, data: Path | None, images: int | None, provider: str, as_json: bool) -> None:
    """Compare MODEL with the CHECKPOINT it came from, on DATA or on drawn images; exit code 6 if they disagree.

    It needs torch and the checkpoint. To check a file on a machine that has neither, use `medinfer verify`.
    """
    _require_torch()
    from medexport.source import read_checkpoint
    from medexport.verify import images_of, judge
    from medinfer.model import load

    agreement = judge(read_checkpoint(checkpoint), load(model, provider), images_of(data, images))
    _report(agreement, as_json=as_json, quiet=False)


def _report(agreement: Agreement, *, as_json: bool, quiet: bool) -> None:
    from medexport.verify import describe

    if as_json:
        click.echo(json.dumps(agreement.to_json()))
    elif not quiet:
        tell(describe(agreement))
        if agreement.images == "synthetic":
            tell("Drawn images only: name real ones for a verdict that means more.")


def _require_torch() -> None:
    for package in ("torch", "onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "export") from None


def main() -> None:
    """Entry point of the `medexport` command."""
    run(cli, "medexport")


if __name__ == "__main__":
    main()
