"""Folders and manifests that are not quite right: nothing is lost in silence, nothing leaks."""

import shutil
from collections import defaultdict

import pytest

from medinfer.errors import RecipeError, UsageError
from medinfer.spec import InputSpec
from medtrain.dataset import examine, load_dataset, load_examples
from medtrain.layout import find_samples
from medtrain.recipe import Data, load


def sides(dataset, key):
    """Return what stands in more than one split."""
    found = defaultdict(set)
    for sample, facts in zip(dataset.samples, dataset.facts, strict=True):
        if sample.split in ("train", "validation", "test"):
            found[key(sample, facts)].add(sample.split)
    return {k: v for k, v in found.items() if len(v) > 1}


def test_a_row_without_a_split_follows_its_copy_into_the_fixed_test_set(tmp_path, fill, spec):
    fill(tmp_path)
    rows = [f"{k}/{i}.png,{k},{'test' if i < 4 else ''}" for k in "ab" for i in range(20)]
    shutil.copyfile(tmp_path / "a/0.png", tmp_path / "a/copy.png")
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows, "a/copy.png,a,"]))
    dataset = examine(tmp_path / "m.csv", Data(), spec, 0)
    assert dataset.errors or not sides(dataset, lambda s, f: f.pixels)


def test_rows_without_a_split_follow_their_patient_into_the_fixed_test_set(tmp_path, fill, spec):
    fill(tmp_path)
    rows = [f"{k}/{i}.png,{k},p{i // 3},{'test' if i < 4 else ''}" for k in "ab" for i in range(20)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,patient,split", *rows]))
    dataset = examine(tmp_path / "m.csv", Data(), spec, 0)
    assert dataset.errors or not sides(dataset, lambda s, f: s.patient)


def test_copies_under_another_root_follow_a_test_folder(tmp_path, fill, spec):
    fill(tmp_path / "CT/Training", start=300)
    fill(tmp_path / "CT/Testing", count=5)
    fill(tmp_path / "MRI")
    dataset = examine(tmp_path, Data(roots=("CT", "MRI")), spec, 0)
    assert dataset.errors or not sides(dataset, lambda s, f: f.pixels)


def test_copies_under_another_root_do_not_leak_where_leaks_are_dropped(tmp_path, fill, spec):
    fill(tmp_path / "CT/Training", start=300)
    fill(tmp_path / "CT/Testing", count=5)
    fill(tmp_path / "MRI")
    dataset = load_dataset(tmp_path, Data(roots=("CT", "MRI"), on_leak="drop-from-train"), spec, 0)
    assert not sides(dataset, lambda s, f: f.pixels)


def test_a_test_folder_with_one_class_is_refused(tmp_path, fill, spec):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=("a",), count=18, start=400)
    with pytest.raises(UsageError):
        load_dataset(tmp_path, Data(), spec, 0)


def test_a_test_folder_without_classes_is_refused(tmp_path, fill, put, spec):
    fill(tmp_path / "train")
    for i in range(9):
        put(tmp_path / f"test/{i}.png", 9000 + i)
    with pytest.raises(UsageError):
        load_dataset(tmp_path, Data(), spec, 0)


def test_a_root_with_one_class_is_taken(tmp_path, fill):
    fill(tmp_path / "CT")
    fill(tmp_path / "MRI", classes=("a",), start=500)
    assert len(find_samples(tmp_path, Data(roots=("CT", "MRI"))).samples) == 60


def test_a_single_class_is_counted_as_one(tmp_path, fill):
    with pytest.raises(UsageError, match="1 classes found"):
        find_samples(fill(tmp_path, classes=("only",)), Data())


def test_class_folders_beside_train_and_test_are_refused(tmp_path, fill):
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=5, start=400)
    fill(tmp_path / "extra", start=9000)
    with pytest.raises(UsageError):
        find_samples(tmp_path, Data())


def test_folders_of_images_inside_a_class_are_refused(tmp_path, fill):
    fill(tmp_path)
    fill(tmp_path / "a", classes=("more",), start=9000)
    with pytest.raises(UsageError):
        find_samples(tmp_path, Data())


def test_a_nested_folder_of_other_pictures_with_the_same_names_and_sizes_is_no_copy(tmp_path, fill):
    fill(tmp_path, suffix=".bmp")
    fill(tmp_path / "cell_images", suffix=".bmp", start=500)
    with pytest.raises(UsageError):
        find_samples(tmp_path, Data())


def test_overlapping_globs_of_roots_count_an_image_once(tmp_path, fill):
    fill(tmp_path / "CT one")
    fill(tmp_path / "MRI two", start=5000)
    names = [s.name for s in find_samples(tmp_path, Data(roots=("CT*", "*"))).samples]
    assert len(names) == len(set(names))


def test_one_root_of_several_may_be_there_alone(tmp_path, fill):
    fill(tmp_path / "CT one")
    assert len(find_samples(tmp_path, Data(roots=("CT*", "MRI*"))).samples) == 40


def test_clutter_is_no_root(tmp_path, fill):
    fill(tmp_path / "CT")
    fill(tmp_path / "MRI", start=300)
    for k in "ab":
        (tmp_path / "__MACOSX/CT" / k).mkdir(parents=True)
        (tmp_path / "__MACOSX/CT" / k / "._1.png").write_bytes(b"x")
    assert len(find_samples(tmp_path, Data(roots=("*",))).samples) == 80


def test_images_that_the_contract_refuses_are_unreadable(tmp_path, fill, put):
    spec = InputSpec(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3, min_side=8)
    fill(tmp_path)
    put(tmp_path / "a/tiny.png", 1, size=(4, 4))
    assert examine(tmp_path, Data(), spec, 0).errors
    dataset = load_dataset(tmp_path, Data(skip_bad=True), spec, 0)
    for split in ("train", "validation", "test"):
        load_examples(dataset, split, spec)


def test_one_class_of_one_size_and_the_other_of_many_is_a_shortcut(tmp_path, put, spec):
    for i in range(20):
        put(tmp_path / f"a/{i}.png", i, (12, 12))
        put(tmp_path / f"b/{i}.png", 100 + i, (12 + i, 13 + i))
    assert [f for f in examine(tmp_path, Data(), spec, 0).findings if f.kind == "shortcut"]


def test_rows_set_aside_stay_so_when_folders_are_mixed(tmp_path, fill, spec):
    fill(tmp_path)
    rows = [f"{k}/{i}.png,{k},{'set-aside' if i < 3 else 'train'}" for k in "ab" for i in range(20)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    assert len(load_dataset(tmp_path / "m.csv", Data(mix_folders=True), spec, 0).split("set-aside")) == 6


def test_a_name_without_its_patient_is_refused(tmp_path, fill):
    for pattern in ("(C[0-9]+)?", "^(C[0-9]+)"):
        with pytest.raises(UsageError, match="finds no patient"):
            find_samples(fill(tmp_path), Data(patient=pattern))


def test_line_numbers_are_those_of_the_file(tmp_path, fill):
    fill(tmp_path)
    (tmp_path / "m.csv").write_text("path,label\n\n\na/0.png,a\nnone.png,b\n")
    with pytest.raises(UsageError, match=r"line 5: none\.png"):
        find_samples(tmp_path / "m.csv", Data())


def test_a_manifest_without_rows_has_no_classes(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n")
    with pytest.raises(UsageError) as refused:
        find_samples(tmp_path / "m.csv", Data())
    assert "no column" not in str(refused.value)


def test_the_advice_is_never_what_is_set_already(tmp_path, fill, put, spec):
    fill(tmp_path)
    for i in range(20):
        put(tmp_path / f"a/c{i}.png", i)
    with pytest.raises(UsageError) as refused:
        load_dataset(tmp_path, Data(keep_together=False, on_leak="drop-from-train"), spec, 0)
    assert "drop-from-train" not in str(refused.value)


def test_a_class_whose_name_means_a_split_is_told(tmp_path, fill):
    fill(tmp_path, classes=("valid", "invalid"))
    with pytest.raises(UsageError, match="invalid: holds images beside the valid folder"):
        find_samples(tmp_path, Data())


def test_a_nested_copy_with_clutter_is_one(tmp_path, fill):
    fill(tmp_path)
    fill(tmp_path / "cell_images")
    (tmp_path / "cell_images/a/Thumbs.db").write_bytes(b"1")
    assert find_samples(tmp_path, Data()).nested_copies


def test_a_stray_folder_of_empty_folders_is_no_copy(tmp_path, fill):
    fill(tmp_path)
    (tmp_path / "notes/a").mkdir(parents=True)
    with pytest.raises(UsageError, match="notes"):
        find_samples(tmp_path, Data())


BASE = """
name = "m"
title = "M"
input = { height = 8, width = 8, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
network = { arch = "small_cnn" }
training = { epochs = 1 }
"""


@pytest.mark.parametrize(
    ("top", "kwargs"),
    [
        ('variant = "x"\n', {"variant": "x"}),
        ("variant = 3\n", {"variant": "x"}),
        ("variant = {o = 3}\n", {"variant": "o"}),
        ("split = {o = 3}\n", {"split": "o"}),
        ("data = 3\nsplit = {o = {test = 0.3}}\n", {"split": "o"}),
        ("variant = 3\n", {}),
        ('split = "x"\n', {}),
    ],
)
def test_malformed_tables_of_variants_and_splits_are_refused(tmp_path, top, kwargs):
    (tmp_path / "m.toml").write_text(top + BASE)
    with pytest.raises(RecipeError):
        load(str(tmp_path / "m.toml"), **kwargs)
