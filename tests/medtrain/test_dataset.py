"""Folders of labelled images: what is taken, what is refused, and that no split leaks."""

import csv

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from medinfer.errors import UsageError
from medinfer.spec import InputSpec
from medtrain.dataset import find_samples, load_dataset, load_tensors, write_splits
from medtrain.recipe import Data

SPEC = InputSpec(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def put(folder, name, value):
    """Write an image whose content is decided by `value`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def fill(folder, *, classes=("a", "b"), count=20, start=0):
    for k, label in enumerate(classes):
        for i in range(count):
            put(folder, f"{label}/{i}.png", start + 1000 * k + i)


@pytest.mark.parametrize(
    "layout",
    [".", "archive/cell_images", "Training", "train/train"],
    ids=["class folders", "wrapped twice", "a train folder alone", "nested as Kaggle does"],
)
def test_classes_are_found_in_the_layouts_that_archives_have(tmp_path, layout):
    fill(tmp_path / layout)
    dataset = load_dataset(tmp_path, Data(), seed=0)
    assert dataset.classes == ("a", "b")
    assert len(dataset.samples) == 40
    assert {len(dataset.split(name)) for name in ("validation", "test")} == {4}


def test_train_and_test_folders_fix_the_split_and_validation_is_drawn(tmp_path):
    fill(tmp_path / "train/train")
    fill(tmp_path / "test/test", count=6, start=500)
    dataset = load_dataset(tmp_path, Data(), seed=0)
    assert {sample.name.split("/")[0] for sample in dataset.split("test")} == {"test"}
    assert len(dataset.split("test")) == 12
    assert {sample.name.split("/")[0] for sample in dataset.split("validation")} == {"train"}


@settings(max_examples=25, deadline=None)
@given(copies=st.lists(st.integers(0, 11), min_size=12, max_size=40), seed=st.integers(0, 1000))
def test_a_drawn_split_never_separates_exact_copies(tmp_path_factory, copies, seed):
    folder = tmp_path_factory.mktemp("copies")
    for label, offset in (("a", 0), ("b", 100)):
        for i, content in enumerate([*range(12), *copies]):  # every content once, some again
            put(folder, f"{label}/{i}.png", offset + content)
    dataset = load_dataset(folder, Data(validation=0.2, test=0.2), seed=seed)
    where = {}
    for sample in dataset.samples:
        assert where.setdefault(sample.sha256, sample.split) == sample.split


def test_the_same_picture_under_two_labels_is_set_aside(tmp_path):
    fill(tmp_path)
    put(tmp_path, "a/conflict.png", 7777)
    put(tmp_path, "b/conflict.png", 7777)
    dataset = load_dataset(tmp_path, Data(), seed=0)
    assert {sample.name for sample in dataset.split("set-aside")} == {"a/conflict.png", "b/conflict.png"}


def test_a_test_folder_with_copies_of_training_images_is_refused_or_dropped_from_training(tmp_path):
    fill(tmp_path / "Training")
    fill(tmp_path / "Testing", count=5)  # the same contents as the first five of Training
    with pytest.raises(UsageError, match="10 training images have an exact copy in the test folder") as refused:
        load_dataset(tmp_path, Data(), seed=0)
    assert refused.value.exit_code == 2
    dataset = load_dataset(tmp_path, Data(on_leak="drop-from-train"), seed=0)
    assert len(dataset.split("test")) == 10
    kept = {sample.sha256 for sample in dataset.split("test")}
    assert not kept & {sample.sha256 for sample in dataset.split("train") + dataset.split("validation")}


def test_the_split_depends_on_the_seed_alone(tmp_path):
    fill(tmp_path)
    first, again, other = (load_dataset(tmp_path, Data(), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256


def test_masks_are_left_out_by_glob(tmp_path):
    fill(tmp_path)
    put(tmp_path, "a/1_mask.png", 1)
    put(tmp_path, "a/1_mask_1.png", 2)
    samples = find_samples(tmp_path, ("*_mask.*", "*_mask_[0-9].*"))
    assert not [sample for sample in samples if "mask" in sample.name]


def test_labels_that_look_like_values_stay_strings(tmp_path):
    fill(tmp_path, classes=("true", "false"))
    assert load_dataset(tmp_path, Data(), seed=0).classes == ("false", "true")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "0 classes"),
        (lambda f: fill(f, classes=("only",)), "classes found"),
        (lambda f: (fill(f), (f / "empty").mkdir()), "holds no image"),
        (lambda f: (fill(f), fill(f / "cell_images")), "holds folders, not images"),
        (lambda f: fill(f, classes=("Normal", "normal ")), "differ only in case or space"),
        (lambda f: fill(f, count=2), "has no image in the train split"),
    ],
    ids=["nothing", "one class", "an empty class", "a nested copy", "a misspelt class", "too few"],
)
def test_a_folder_that_cannot_be_learnt_from_is_refused_with_the_reason(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UsageError, match=message):
        load_dataset(tmp_path, Data(), seed=0)


def test_unreadable_images_are_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "a/3.png").write_bytes(b"no picture")
    (tmp_path / "b/4.png").write_bytes(b"")
    dataset = load_dataset(tmp_path, Data(), seed=0)
    with pytest.raises(UsageError) as refused:
        load_tensors(dataset.samples, SPEC)
    assert "a/3.png: not_an_image" in str(refused.value)
    assert "b/4.png: empty_file" in str(refused.value)


def test_training_sees_the_tensors_that_inference_makes(tmp_path):
    import medinfer

    fill(tmp_path, count=3)
    samples = find_samples(tmp_path)
    tensors = load_tensors(samples, SPEC)
    for sample, tensor in zip(samples, tensors, strict=True):
        assert np.array_equal(tensor, medinfer.preprocess(medinfer.read_image(sample.path, SPEC), SPEC))


def test_splits_csv_holds_one_row_for_each_image(tmp_path):
    fill(tmp_path / "data")
    dataset = load_dataset(tmp_path / "data", Data(), seed=0)
    write_splits(dataset, tmp_path / "splits.csv")
    rows = list(csv.DictReader((tmp_path / "splits.csv").read_text().splitlines()))
    assert [(row["path"], row["label"], row["split"]) for row in rows] == [
        (sample.name, sample.label, sample.split) for sample in dataset.samples
    ]
