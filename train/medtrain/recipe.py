"""The recipe: everything that decides what a training run does, typed and checked before any work.

A recipe is a TOML file: one of those in `recipes/`, or the user's own; single values are overridden by name
(`training.epochs=3`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from medinfer.errors import RecipeError, SpecError
from medinfer.schema import Schema, schema
from medinfer.spec import InputSpec

DEFAULT_RECIPE = "default"


def _require(condition: bool, path: str, problem: str) -> None:
    if not condition:
        raise SpecError(path, problem)


@schema
class Data(Schema):
    """Which images, and how they are split.

    `validation` and `test` are shares of all images, drawn by class where the folder does not fix them. `exclude` are
    globs on file names. `on_leak` says what to do where a fixed test folder holds copies of training images.
    """

    exclude: tuple[str, ...] = ()
    validation: float = 0.1
    test: float = 0.1
    on_leak: Literal["refuse", "drop-from-train"] = "refuse"

    def check(self) -> None:
        """Check the ranges."""
        for name in ("validation", "test"):
            _require(0 < getattr(self, name) < 0.5, name, f"{getattr(self, name)} is not within (0, 0.5)")


@schema
class Network(Schema):
    """Which network, and what it starts from: `none`, `imagenet`, or a file with a state_dict."""

    arch: str
    weights: str = "none"
    dropout: float = 0.2

    def check(self) -> None:
        """Check the range."""
        _require(0 <= self.dropout < 1, "dropout", f"{self.dropout} is not within [0, 1)")


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
        _require(0 <= self.rotate <= 180, "rotate", f"{self.rotate} is not within 0..180 degrees")
        for name in ("scale", "shift", "brightness", "contrast"):
            _require(0 <= getattr(self, name) < 1, name, f"{getattr(self, name)} is not within [0, 1)")


@schema
class Training(Schema):
    """How the weights are found. The rate warms up over a share of all steps, then follows half a cosine to 0."""

    epochs: int
    batch_size: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.2
    label_smoothing: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, f"{getattr(self, name)} is less than 1")
        _require(self.learning_rate > 0, "learning_rate", f"{self.learning_rate} is not positive")
        _require(self.weight_decay >= 0, "weight_decay", f"{self.weight_decay} is negative")
        _require(0 <= self.seed < 2**31, "seed", f"{self.seed} is not within 0..2^31-1")
        for name in ("warmup", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, name, f"{getattr(self, name)} is not within [0, 1)")


@schema
class Recipe(Schema):
    """One training set-up. `positive` names the classes that count as disease."""

    name: str
    title: str
    positive: tuple[str, ...] = ()
    data: Data = Data()
    input: InputSpec
    network: Network
    augment: Augment = Augment()
    training: Training


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = files("medtrain") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name or its file's path, with `key=value` overrides (values in TOML).

    Raises:
        RecipeError: No such recipe, or a field is wrong; the message names it.
    """
    data = _read(name)
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.from_json(data)
    except SpecError as error:
        raise RecipeError(f"recipe {name}: {error.path}: {error.problem}", hint=error.hint) from None


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
