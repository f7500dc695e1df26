"""Recipes: typed, checked before any work, overridden by name."""

import pytest

from medinfer.errors import RecipeError
from medtrain.recipe import describe, load, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_ours_is_valid(name):
    recipe = load(name)
    assert recipe.name == name
    assert recipe == type(recipe).from_json(describe(recipe))


def test_values_are_overridden_by_name_and_bare_words_are_strings():
    recipe = load("phantom", ["training.epochs=3", "network.arch=resnet18", "input.mean=[0.1, 0.2, 0.3]"])
    assert (recipe.training.epochs, recipe.network.arch, recipe.input.mean) == (3, "resnet18", (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=many", "training.epochs"),
        ("training.learning_rate=-1", "training.learning_rate"),
        ("input.interpolation=nearest", "input.interpolation"),
        ("input.std=[0.5, 0.0, 0.5]", "input.std[1]"),
        ("data.test=0.9", "data.test"),
        ("augment.flip=true", "augment.flip"),
        ("network.dropout=1.0", "network.dropout"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(override, named):
    with pytest.raises(RecipeError) as refused:
        load("phantom", [override])
    assert f"phantom: {named}:" in str(refused.value)
    assert refused.value.exit_code == 2


def test_an_unknown_recipe_is_told_which_there_are():
    with pytest.raises(RecipeError, match="brain-tumor-mri"):
        load("brain-tumour")


@pytest.mark.parametrize("text", ["name = ", "name = 1", "\xff"])
def test_a_broken_file_is_refused(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError):
        load(str(path))


@pytest.mark.parametrize("override", ["epochs", "=3", "name.x=3"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(RecipeError):
        load("phantom", [override])
