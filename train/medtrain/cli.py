"""The `medtrain` command. torch is imported inside the commands: `--help` and usage errors need none of it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from medinfer import __version__
from medinfer.command import DISCLAIMER, Group, run
from medinfer.errors import MissingExtraError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=DISCLAIMER)
@click.version_option(__version__, prog_name="medtrain")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def cli(debug: bool) -> None:
    """Train a medical image classifier on the very tensors that inference will see."""


@cli.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", "name", help="A recipe's name (medtrain recipes) or a .toml file.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(), help="Folder for the results; by default this one."
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run was last saved.")
@click.option("--overwrite", is_flag=True, help="Start afresh, replacing an earlier run's results.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training images.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides the split, the order and the augmentation.")
@click.option("--arch", help="Network: small_cnn, efficientnet_lite0, timm:NAME, or torchvision's (resnet18, ...).")
@click.option("--weights", help="Start from: none, imagenet, or a file with a state_dict.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any field: training.batch_size=16."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--save-every", default=60.0, show_default=True, metavar="SECONDS", help="How often last.pt is saved.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def fit(
    data: Path | None,
    name: str | None,
    out: Path,
    resume: bool,
    overwrite: bool,
    epochs: int | None,
    seed: int | None,
    arch: str | None,
    weights: str | None,
    overrides: tuple[str, ...],
    device: str,
    save_every: float,
    quiet: bool,
) -> None:
    """Train on DATA, a folder of class folders (or of train/test folders of them).

    Without DATA, trains the built-in phantom on images that it draws itself. Leaves ckpt.pt (the best epoch),
    metrics.json, splits.csv and last.pt in --out.
    """
    from medtrain import recipe as recipes

    flags = {"training.epochs": epochs, "training.seed": seed, "network.arch": arch, "network.weights": weights}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    fallback = "phantom" if data is None else recipes.DEFAULT_RECIPE
    recipe = recipes.load(name or fallback, [*overrides, *given])
    device = _prepare_torch(device)
    from medtrain import fit as training

    options = training.Options(
        out=out, resume=resume, overwrite=overwrite, save_seconds=save_every, device=device, quiet=quiet
    )
    training.fit(data, recipe, options)


@cli.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes, or print one as TOML: a start for your own."""
    from importlib.resources import files

    from medtrain.recipe import load, recipe_names

    if name is None:
        for known in recipe_names():
            click.echo(f"{known:18} {load(known).title}")
        return
    load(name)  # says what is wrong with the name
    click.echo((files("medtrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"), nl=False)


def _prepare_torch(device: str) -> str:
    """Make the settings that only a process may make, and return the device to train on."""
    from medinfer.errors import ProviderError, UsageError
    from medtrain.heap import keep_heap

    keep_heap()
    # Without it cuBLAS may not repeat itself, and torch refuses to promise that it does.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train") from None
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ProviderError(f"{device}: torch finds no CUDA device", hint="Run with --device cpu.")
    return device


def main() -> None:
    """Entry point of the `medtrain` command."""
    run(cli, "medtrain")


if __name__ == "__main__":
    main()
