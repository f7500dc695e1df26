"""The recipe: everything that decides what a training run does, typed and checked before any work.

A recipe is a TOML file: one of those in `recipes/`, or the user's own; single values are overridden by name
(`training.epochs=3`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from medinfer.errors import RecipeError, SpecError
from medinfer.schema import Schema, require, schema
from medinfer.spec import InputSpec
from medtrain.author import Card

DEFAULT_RECIPE = "default"

HeadKind = Literal["linear", "batchnorm-256"]
Pool = Literal["avg", "max"]


@schema
class About(Schema):
    """What a person must know before a recipe can be run; `medtrain recipes NAME` prints it."""

    source: str
    tree: str
    counts: str
    original: str


@schema
class Data(Schema):
    """Which images, and how they are split.

    Attributes:
        roots: Globs of folders below the data folder that each hold the class folders (one per modality or site);
            empty where the data folder itself does.
        exclude: Globs on file names.
        patient: Regular expression on a file's name whose first group is the patient; a manifest has a column for it.
        validation: Share of all images, drawn where folders or a manifest fix none.
        test: The same.
        keep_together: Exact copies and a patient's images never part. False repeats a published protocol.
        near_duplicates: Pictures that look alike do not part either.
        mix_folders: Train and test folders are pooled and split anew.
        on_leak: What to do where a fixed split leaks, or a drawn one that does not keep together.
        skip_bad: Leave out the images that cannot be read, instead of refusing the data.
    """

    roots: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    patient: str | None = None
    validation: float = 0.1
    test: float = 0.1
    keep_together: bool = True
    near_duplicates: bool = False
    mix_folders: bool = False
    on_leak: Literal["refuse", "drop-from-train", "allow"] = "refuse"
    skip_bad: bool = False

    def check(self) -> None:
        """Check the ranges, and that `patient` is a regular expression with a group."""
        for name in ("validation", "test"):
            require(0 < getattr(self, name) < 0.5, name, f"{getattr(self, name)} is not within (0, 0.5)")
        if self.patient is not None:
            try:
                groups = re.compile(self.patient).groups
            except re.error as error:
                raise SpecError("patient", f"{self.patient!r} is not a regular expression: {error}") from None
            require(groups >= 1, "patient", f"{self.patient!r} has no group, such as in '^(C[0-9]+)'")


@schema
class Network(Schema):
    """Which network, its head, and what it starts from: `none`, `imagenet`, or a file with a state_dict."""

    arch: str
    weights: str = "none"
    head: HeadKind = "linear"
    pool: Pool = "avg"
    dropout: float = 0.2

    def check(self) -> None:
        """Check the range."""
        require(0 <= self.dropout < 1, "dropout", f"{self.dropout} is not within [0, 1)")


@schema
class Augment(Schema):
    """Random changes of a training tensor: flips at even odds, the rest uniform within +- the value.

    `rotate` is in degrees, `scale` and `shift` are shares of the side, `brightness` and `contrast` of the range.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def check(self) -> None:
        """Check the ranges."""
        require(0 <= self.rotate <= 180, "rotate", f"{self.rotate} is not within 0..180 degrees")
        for name in ("scale", "shift", "brightness", "contrast"):
            require(0 <= getattr(self, name) < 1, name, f"{getattr(self, name)} is not within [0, 1)")


@schema
class Plateau(Schema):
    """Multiply the rate by `factor` when what `select` names is not better by `min_delta` for `patience` epochs."""

    factor: float = 0.3
    patience: int = 2
    min_delta: float = 0.001

    def check(self) -> None:
        """Check the ranges."""
        require(0 < self.factor < 1, "factor", f"{self.factor} is not within (0, 1)")
        require(self.patience >= 0, "patience", f"{self.patience} is negative")
        require(self.min_delta >= 0, "min_delta", f"{self.min_delta} is negative")


@schema
class Training(Schema):
    """How the weights are found.

    Attributes:
        epochs: At most so many passes over the training images.
        batch_size: Images in a step, over all processes.
        optimizer: Each with torch's defaults but for what stands here; SGD with momentum 0.9.
        learning_rate: The highest.
        weight_decay: Of matrices; biases and BatchNorm have none.
        schedule: `cosine` rises over `warmup` of all steps, then follows half a cosine to 0.
        warmup: Share of all steps.
        plateau: Settings of the schedule `plateau`.
        early_stopping: Stop after so many epochs without a better one; 0 never stops.
        select: What makes an epoch the best one, on the validation images.
        class_weights: `balanced` weighs each class by the inverse of its count.
        label_smoothing: Share of the target spread over all classes.
        frozen_epochs: First epochs in which only the head learns.
        backbone_rate: Afterwards the backbone's rate, as a share of the head's.
        precision: `mixed` computes in bf16 or fp16 where the device has it natively; weights stay float32.
        seed: Decides the split, the order, the augmentation and the dropout.
    """

    epochs: int
    batch_size: int = 32
    optimizer: Literal["adamw", "adam", "adamax", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: float = 0.2
    plateau: Plateau = Plateau()
    early_stopping: int = 0
    select: Literal["accuracy", "auc", "loss"] = "accuracy"
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.0
    frozen_epochs: int = 0
    backbone_rate: float = 1.0
    precision: Literal["fp32", "mixed"] = "fp32"
    seed: int = 0

    def check(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, f"{getattr(self, name)} is less than 1")
        for name in ("weight_decay", "early_stopping", "frozen_epochs"):
            require(getattr(self, name) >= 0, name, f"{getattr(self, name)} is negative")
        for name in ("warmup", "label_smoothing"):
            require(0 <= getattr(self, name) < 1, name, f"{getattr(self, name)} is not within [0, 1)")
        require(self.learning_rate > 0, "learning_rate", f"{self.learning_rate} is not positive")
        require(0 < self.backbone_rate <= 1, "backbone_rate", f"{self.backbone_rate} is not within (0, 1]")
        require(0 <= self.seed < 2**31, "seed", f"{self.seed} is not within 0..2^31-1")


@schema
class Decisions(Schema):
    """What is decided on the validation images.

    `sensitivity` and `specificity` are what thresholds on p(positive) are chosen for beside Youden's index; 0 for none.
    `coverage` is how often a set of classes shall hold the true one, on average or for each class; 0 for no limits.
    `in_distribution` is the share of images like the training's that shall not be taken for outliers.
    """

    sensitivity: float = 0.95
    specificity: float = 0.95
    coverage: float = 0.9
    coverage_per_class: bool = False
    in_distribution: float = 0.95

    def check(self) -> None:
        """Check the ranges."""
        for name in ("sensitivity", "specificity"):
            require(0 <= getattr(self, name) <= 1, name, f"{getattr(self, name)} is not within [0, 1]")
        require(0 <= self.coverage < 1, "coverage", f"{self.coverage} is not within [0, 1)")
        require(0 < self.in_distribution < 1, "in_distribution", f"{self.in_distribution} is not within (0, 1)")


@schema
class Recipe(Schema):
    """One training set-up. `positive` names the classes that count as disease."""

    name: str
    title: str
    variant: str = ""
    positive: tuple[str, ...] = ()
    about: About | None = None
    data: Data = Data()
    input: InputSpec
    network: Network
    augment: Augment = Augment()
    training: Training
    decisions: Decisions = Decisions()
    card: Card = Card()


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = files("medtrain") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str, overrides: Sequence[str] = (), *, variant: str = "", split: str = "") -> Recipe:
    """Read a recipe by its name or its file's path.

    Args:
        name: One of `recipe_names()`, or a .toml file.
        overrides: `key=value` with dotted keys and values in TOML; they win over everything else.
        variant: A table under `[variant.NAME]` of the recipe, laid over it: `original` is the published set-up.
        split: A table under `[split.NAME]`, laid over `[data]`: `original` is the published protocol.

    Raises:
        RecipeError: No such recipe, variant or split, or a field is wrong; the message names it.
    """
    data = _read(name)
    variants, splits = (_tables(name, key, data.pop(key, {})) for key in ("variant", "split"))
    if variant:
        _merge(data, _named(variants, variant, f"recipe {name}: variant"))
        data["variant"] = variant
    if split:
        data["data"] = _tables(name, "data", data.get("data", {}), nested=False)
        _merge(data["data"], _named(splits, split, f"recipe {name}: split"))
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.from_json(data)
    except SpecError as error:
        raise RecipeError(f"recipe {name}: {error.path}: {error.problem}", hint=error.hint) from None


def _tables(name: str, key: str, value: Any, *, nested: bool = True) -> dict[str, Any]:
    """Return a table, or a table of tables; raises RecipeError for anything else."""
    if not isinstance(value, dict) or (nested and not all(isinstance(item, dict) for item in value.values())):
        hint = f"Write [{key}.NAME]." if nested else f"Write [{key}]."
        raise RecipeError(f"recipe {name}: {key}: expected a table, got {value!r}", hint=hint)
    return value


def _named(tables: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    if name not in tables:
        known = ", ".join(tables) or "none"
        raise RecipeError(f"{what}: {name!r} is not known", hint=f"There is {known}.")
    return dict(tables[name])


def _merge(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def _read(name: str) -> dict[str, Any]:
    if name in recipe_names():
        text = (files("medtrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).suffix == ".toml":
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {name}: {error}") from None
    else:
        hint = f"There are {', '.join(recipe_names())}; or name a .toml file."
        raise RecipeError(f"recipe: {name!r} is not known", hint=hint)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name}: not valid TOML: {error}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not (equals and key):
        raise RecipeError(f"--set {override}: expected KEY=VALUE", hint="For example training.epochs=3")
    *tables, last = key.strip().split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise RecipeError(f"--set {override}: {table} is a value, not a table")
    data[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    """Read a TOML value; a bare word is a string, for nobody wants to type nested quotes in a shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def describe(recipe: Recipe) -> Mapping[str, Any]:
    """Return the recipe as JSON values, as it is stored in a checkpoint."""
    return recipe.to_json()


def about_text(recipe: Recipe) -> str:
    """Return what a person must know of a recipe: its data, and what the original reached."""
    lines = [f"{recipe.name}: {recipe.title}", f"Network: {recipe.network.arch}, weights: {recipe.network.weights}"]
    if recipe.about:
        tree = "".join(f"\n    {line}" for line in recipe.about.tree.strip().splitlines())
        lines += [
            f"Data: {recipe.about.source} (nothing is downloaded)",
            f"Folders expected:{tree}",
            f"Images: {recipe.about.counts}",
            f"Original: {recipe.about.original}",
        ]
    run = "medtrain fit" + ("" if recipe.name == "phantom" else f" FOLDER --recipe {recipe.name}")
    return "\n".join([*lines, f"Run: {run}", f"As TOML: medtrain recipes {recipe.name} --toml"])
