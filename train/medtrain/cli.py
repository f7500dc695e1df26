"""The `medtrain` command. torch is imported inside the commands: `--help` and usage errors need none of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medinfer import __version__
from medinfer.command import DISCLAIMER, Group, run
from medinfer.errors import MissingExtraError

if TYPE_CHECKING:
    from medtrain.fit import Options
    from medtrain.recipe import Recipe


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=DISCLAIMER)
@click.version_option(__version__, prog_name="medtrain")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def cli(debug: bool) -> None:
    """Train a medical image classifier on the very tensors that inference will see."""


def _recipe_options(command: Any) -> Any:
    options = (
        click.option("--recipe", "name", help="A recipe's name (medtrain recipes) or a .toml file."),
        click.option("--variant", default="", help="A variant of the recipe: original is the published set-up."),
        click.option("--split", default="", help="A split of the recipe: original is the published protocol."),
        click.option(
            "--arch",
            help="Network: small_cnn, efficientnet_lite0, timm:NAME, torchvision's; a,b,c compares several.",
        ),
        click.option("--weights", help="Start from: none, imagenet, or a file with a state_dict."),
        click.option("--epochs", type=click.IntRange(min=1), help="At most so many passes over the training images."),
        click.option("--seed", type=click.IntRange(min=0), help="Decides the split, the order, the augmentation."),
        click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be read."),
        click.option("--allow-leakage", is_flag=True, help="Accept a split that leaks; recorded in the checkpoint."),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field: training.batch_size=16."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _load_recipe(
    fallback: str,
    *,
    name: str | None,
    variant: str,
    split: str,
    arch: str | None,
    weights: str | None,
    epochs: int | None,
    seed: int | None,
    skip_bad: bool,
    allow_leakage: bool,
    overrides: tuple[str, ...],
) -> Recipe:
    from medtrain.recipe import load

    flags = {
        "training.epochs": epochs,
        "training.seed": seed,
        "network.arch": arch,
        "network.weights": weights,
        "data.skip_bad": "true" if skip_bad else None,
        "data.on_leak": "allow" if allow_leakage else None,
    }
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return load(name or fallback, [*overrides, *given], variant=variant, split=split)


@cli.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@_recipe_options
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder for the results; by default here.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run was last saved.")
@click.option("--overwrite", is_flag=True, help="Start afresh, replacing an earlier run's results.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that augment; by default all cores.")
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="GiB for a split's images; more go to disk.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How often last.pt is saved.",
)
@click.option("--tensorboard", is_flag=True, help="Write curves for TensorBoard below --out.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def fit(
    data: Path | None,
    out: Path,
    resume: bool,
    overwrite: bool,
    device: str,
    workers: int | None,
    memory: int,
    save_every: float,
    tensorboard: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Train on DATA: class folders, train/test folders of them, or a CSV with the columns path,label,patient,split.

    Without DATA, trains the built-in phantom on images that it draws itself. Leaves ckpt.pt (the best epoch),
    report.html, metrics.json, splits.csv and last.pt in --out. Ctrl-C and SIGTERM save and stop; --resume goes on, bit
    for bit.
    """
    from medtrain.recipe import DEFAULT_RECIPE

    recipe = _load_recipe("phantom" if data is None else DEFAULT_RECIPE, **chosen)
    device = _prepare_torch(device)
    from medinfer.interruption import Interruption
    from medtrain import fit as training
    from medtrain.processes import join_processes, leave_processes

    options = training.Options(
        out=out,
        resume=resume,
        overwrite=overwrite,
        save_seconds=save_every,
        device=device,
        workers=workers,
        memory=memory << 30,
        tensorboard=tensorboard,
        quiet=quiet,
        process=join_processes(device),
        interruption=Interruption(),
    )
    try:
        archs = recipe.network.arch.split(",")
        if len(archs) == 1:
            training.fit(data, recipe, options)
        else:
            _compare(data, recipe, archs, options)
    finally:
        leave_processes()


def _compare(data: Path | None, recipe: Recipe, archs: list[str], options: Options) -> None:
    from medtrain.compare import board_text, compare

    board = compare(data, recipe, archs, options)
    if options.process.is_first:
        click.echo(board_text(board))


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@_recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def check(data: Path, as_json: bool, quiet: bool, **chosen: Any) -> None:
    """Look for what would make results false: copies, leaks, patients on both sides, wrong labels, shortcuts.

    Exits with 2 where `medtrain fit` would refuse the data.
    """
    import json

    from medinfer.progress import Progress
    from medtrain.dataset import examine, findings_text
    from medtrain.recipe import DEFAULT_RECIPE

    recipe = _load_recipe(DEFAULT_RECIPE, **chosen)
    with Progress("Checking", enabled=not quiet) as progress:
        dataset = examine(data, recipe.data, recipe.input, recipe.training.seed, progress)
    click.echo(json.dumps(dataset.summary(), indent=2) if as_json else findings_text(dataset))
    dataset.refuse_errors()


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@_recipe_options
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True)
@click.option("--images", type=click.IntRange(1, 64), default=8, show_default=True, help="How many.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
def preview(data: Path, output: Path, images: int, overwrite: bool, **chosen: Any) -> None:
    """Write a picture of images as decoded, as preprocessed, and as augmented for training."""
    from medinfer.files import refuse_existing
    from medtrain.layout import find_samples
    from medtrain.preview import choose, write_preview
    from medtrain.recipe import DEFAULT_RECIPE

    refuse_existing(output, overwrite=overwrite)
    recipe = _load_recipe(DEFAULT_RECIPE, **chosen)
    samples = choose(find_samples(data, recipe.data).samples, images)
    write_preview(samples, recipe, output)
    click.echo(f"{output}: a row for each of")
    for sample in samples:
        click.echo(f"  {sample.name}")


@cli.command()
@_recipe_options
@click.argument("recipe_name", metavar="RECIPE")
@click.option("--classes", type=click.IntRange(min=2), default=2, show_default=True, help="Outputs of the network.")
def info(recipe_name: str, classes: int, **chosen: Any) -> None:
    """Print the layers, shapes and parameters of a recipe's network."""
    recipe = _load_recipe(recipe_name, **chosen)
    _prepare_torch("cpu")
    from medtrain.summary import summarize

    click.echo(summarize(recipe, classes))


@cli.command()
@click.argument("name", required=False)
@click.option("--toml", is_flag=True, help="Print the recipe itself: a start for your own.")
def recipes(name: str | None, toml: bool) -> None:
    """List the recipes; or say of one where its data are to be had, how they lie, and what the original reached."""
    from importlib.resources import files

    from medtrain.recipe import about_text, load, recipe_names

    if name is None:
        for known in recipe_names():
            click.echo(f"{known:20} {load(known).title}")
        return
    recipe = load(name)
    text = (files("medtrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8") if toml else about_text(recipe)
    click.echo(text, nl=not toml)


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--root", type=click.Path(exists=True, path_type=Path), help="Where the paths of a CSV begin.")
@click.option("--split", help="The rows of a CSV whose column split says so: test.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing on standard error but errors.")
def evaluate(checkpoint: Path, data: Path, root: Path | None, split: str | None, as_json: bool, quiet: bool) -> int:
    """Measure a CHECKPOINT on images whose class is known, with the table of `medinfer evaluate`.

    DATA is a folder of class folders, or a CSV with the columns path and label, such as the splits.csv of a run.
    """
    import json

    _prepare_torch("cpu")
    from medinfer.command import tell
    from medinfer.evaluation import as_text
    from medinfer.job import SOME_FAILED
    from medinfer.labels import find_labelled
    from medinfer.progress import Progress
    from medtrain.checkpoint import load_checkpoint
    from medtrain.evaluate import evaluate_images

    loaded = load_checkpoint(checkpoint)
    known, others = find_labelled(data, loaded.spec.classes, root=root, split=split)
    with Progress("Evaluating", len(known), enabled=not quiet) as progress:
        measured, failed = evaluate_images(loaded.classifier(), loaded.spec, known, progress.step)
    if others and not quiet:
        tell(f"{others} images are of no class of the model and are not counted")
    click.echo(json.dumps({**measured, "failed": failed}) if as_json else as_text(measured))
    return SOME_FAILED if failed else 0


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
    # It would overwrite all new memory, a quarter of the time of a CPU's training step: for what nothing ever reads.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ProviderError(f"{device}: torch finds no CUDA device", hint="Run with --device cpu.")
    if number and int(number) >= torch.cuda.device_count():
        raise ProviderError(f"{device}: torch finds {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def main() -> None:
    """Entry point of the `medtrain` command."""
    run(cli, "medtrain")


if __name__ == "__main__":
    main()
