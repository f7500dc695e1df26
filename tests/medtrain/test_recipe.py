"""Recipes: typed, checked before any work, overridden by name."""

import json
import tomllib
from importlib.resources import files

import pytest

from medinfer.errors import RecipeError
from medtrain.recipe import Recipe, about_text, describe, load, recipe_names


def tables(name, kind):
    """Return the names of a recipe's variants or splits, and "" for none of them."""
    text = (files("medtrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return ["", *tomllib.loads(text).get(kind, {})]


@pytest.mark.parametrize(
    ("name", "variant", "split"),
    [
        (name, variant, split)
        for name in recipe_names()
        for variant in tables(name, "variant")
        for split in tables(name, "split")
    ],
)
def test_every_recipe_of_ours_is_valid_in_each_variant_and_split(name, variant, split):
    recipe = load(name, variant=variant, split=split)
    assert recipe.name == name
    assert recipe.variant == variant
    assert Recipe.from_json(json.loads(json.dumps(describe(recipe)))) == recipe
    plain = load(name)
    assert (recipe != plain) is bool(variant or split)
    if variant and not split:
        assert (recipe.data, recipe.about) == (plain.data, plain.about)
    if split and not variant:
        assert (recipe.network, recipe.training, recipe.input) == (plain.network, plain.training, plain.input)


@pytest.fixture
def mine(tmp_path):
    """A recipe of the user's, with two variants and a split; its path."""
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        name = "mine"
        title = "Mine"
        positive = ["true"]
        [data]
        patient = "^(C[0-9]+)"
        test = 0.2
        [input]
        height = 8
        width = 8
        mean = [0.5, 0.5, 0.5]
        std = [0.5, 0.5, 0.5]
        [network]
        arch = "small_cnn"
        dropout = 0.1
        [training]
        epochs = 7
        plateau = { factor = 0.5, patience = 5 }
        [variant.original]
        network = { arch = "resnet18" }
        training = { plateau = { patience = 1 }, seed = 101 }
        augment = { rotate = 10.0 }
        [variant.wrong]
        network = { dropout = 3.0 }
        [split.original]
        keep_together = false
        test = 0.3
        """
    )
    return str(path)


def test_a_variant_changes_what_it_names_and_nothing_else(mine):
    plain, original = load(mine), load(mine, variant="original")
    assert (plain.variant, original.variant) == ("", "original")
    assert (original.network.arch, original.network.dropout) == ("resnet18", 0.1)
    assert (original.training.plateau.factor, original.training.plateau.patience) == (0.5, 1)
    assert (original.training.seed, original.training.epochs) == (101, 7)
    assert original.augment.rotate == 10.0
    assert original.data == plain.data
    assert original.input == plain.input


def test_a_split_changes_the_data_and_nothing_else(mine):
    plain, published = load(mine), load(mine, split="original")
    assert (published.data.keep_together, published.data.test) == (False, 0.3)
    assert published.data.patient == plain.data.patient == "^(C[0-9]+)"
    assert (published.network, published.training, published.variant) == (plain.network, plain.training, "")
    both = load(mine, variant="original", split="original")
    assert (both.network.arch, both.data.test) == ("resnet18", 0.3)


def test_a_single_value_wins_over_variant_and_split(mine):
    recipe = load(mine, ["network.arch=small_cnn", "data.test=0.25"], variant="original", split="original")
    assert (recipe.network.arch, recipe.data.test, recipe.training.seed) == ("small_cnn", 0.25, 101)


@pytest.mark.parametrize("kind", ["variant", "split"])
def test_an_unknown_variant_or_split_is_told_which_there_are(mine, kind):
    with pytest.raises(RecipeError, match=f"{kind}: 'published' is not known.*There is original") as refused:
        load(mine, **{kind: "published"})
    assert refused.value.exit_code == 2
    with pytest.raises(RecipeError, match=f"recipe default: {kind}: 'original' is not known.*There is none"):
        load("default", **{kind: "original"})


def test_a_wrong_value_of_a_variant_is_refused_by_name_once_it_is_asked_for(mine):
    load(mine)
    with pytest.raises(RecipeError, match=r"network\.dropout: 3\.0 is not within"):
        load(mine, variant="wrong")


def test_classes_may_be_the_words_true_and_false(mine):
    assert load(mine).positive == ("true",)
    assert load(mine, ['positive=["false"]']).positive == ("false",)
    assert json.loads(json.dumps(describe(load(mine))))["positive"] == ["true"]
    with pytest.raises(RecipeError, match="positive"):
        load(mine, ["positive=[true]"])


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [("'('", "is not a regular expression"), ("'^C[0-9]+'", "has no group"), ("'^(?:C[0-9]+)'", "has no group")],
)
def test_a_pattern_that_can_find_no_patient_is_refused(mine, pattern, problem):
    with pytest.raises(RecipeError, match=f"data\\.patient: .*{problem}") as refused:
        load(mine, [f"data.patient={pattern}"])
    assert refused.value.exit_code == 2


def test_what_must_be_known_of_a_recipe_is_told():
    recipe = load("malaria")
    text = about_text(recipe)
    lines = text.splitlines()
    assert lines[0] == f"malaria: {recipe.title}"
    assert recipe.about.source in text
    assert "nothing is downloaded" in text
    assert f"Images: {recipe.about.counts}" in lines
    assert f"Original: {recipe.about.original}" in lines
    assert all(f"    {line}" in lines for line in recipe.about.tree.strip().splitlines())
    assert lines[-2:] == [
        "Run: medtrain fit FOLDER --recipe malaria",
        "As TOML: medtrain recipes malaria --toml",
    ]


def test_every_recipe_for_published_images_tells_where_they_are_to_be_had():
    without = {name for name in recipe_names() if load(name).about is None}
    assert without == {"default", "phantom"}
    assert "https://" not in about_text(load("default"))
    assert "Run: medtrain fit\n" in about_text(load("phantom"))
    for name in set(recipe_names()) - without:
        assert "https://" in about_text(load(name))
        assert f"medtrain fit FOLDER --recipe {name}" in about_text(load(name))


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
