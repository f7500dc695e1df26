"""Data sets as a whole: tensors, splits.csv, the hash that tells two data sets apart, and what is said of them."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest

import medinfer
from medinfer.errors import UsageError
from medinfer.progress import Progress
from medtrain.dataset import examine, findings_text, load_dataset, load_examples, write_splits
from medtrain.layout import SPLITS
from medtrain.recipe import Data


@pytest.fixture
def mixed(tmp_path, fill, save):
    """Two classes, in several formats, sizes and depths."""
    data = fill(tmp_path / "mixed", count=10)
    fill(data, count=10, start=500, suffix=".jpg")
    random = np.random.default_rng(5)
    for label in "ab":
        save(data / label / "gray.png", random.integers(0, 256, (20, 7), dtype=np.uint8))
        save(data / label / "deep.png", random.integers(0, 65536, (8, 8), dtype=np.uint16))
        save(data / label / "alpha.png", random.integers(0, 256, (30, 40, 4), dtype=np.uint8))
    return data


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_training_sees_the_tensors_that_inference_makes(mixed, input_spec, color):
    spec = input_spec(color=color, height=10, width=8, interpolation="area")
    dataset = load_dataset(mixed, Data(), spec, 0)
    for split in SPLITS:
        examples = load_examples(dataset, split, spec)
        samples = dataset.split(split)
        assert examples.names == tuple(sample.name for sample in samples)
        assert examples.labels.tolist() == ["ab".index(sample.label) for sample in samples]
        assert examples.images.shape == (len(samples), 10, 8, spec.channels)
        for sample, tensor in zip(samples, examples.images, strict=True):
            assert np.array_equal(tensor, medinfer.preprocess(medinfer.read_image(sample.path, spec), spec))


def test_tensors_larger_than_the_memory_allowed_lie_in_a_file_and_are_the_same(mixed, spec):
    dataset = load_dataset(mixed, Data(), spec, 0)
    size = len(dataset.split("train")) * 8 * 8 * 3
    held = load_examples(dataset, "train", spec, budget=size)
    filed = load_examples(dataset, "train", spec, budget=size - 1)
    assert not isinstance(held.images, np.memmap)
    assert isinstance(filed.images, np.memmap)
    assert filed.images.shape == held.images.shape
    assert filed.images.dtype == np.uint8
    assert np.array_equal(filed.images, held.images)
    assert np.array_equal(filed.labels, held.labels)


def test_each_image_looked_at_or_decoded_is_a_step_of_progress(tmp_path, fill, spec):
    steps = []

    class Counted(Progress):
        def step(self, count=1, note=""):
            steps.append("looked")

    progress = Counted("Checking", enabled=False)
    dataset = load_dataset(fill(tmp_path), Data(), spec, 0, progress)
    assert progress.total == len(steps) == 40
    load_examples(dataset, "test", spec, step=lambda: steps.append("decoded"))
    assert steps.count("decoded") == len(dataset.split("test")) == 4


def test_images_that_were_damaged_since_they_were_looked_at_are_named(tmp_path, fill, spec):
    dataset = load_dataset(fill(tmp_path), Data(), spec, 0)
    for sample in dataset.split("train"):
        sample.path.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="32 images cannot be used") as refused:
        load_examples(dataset, "train", spec)
    told = [line for line in str(refused.value).splitlines() if "not_an_image" in line]
    assert [line.split(":")[0].strip() for line in told] == [sample.name for sample in dataset.split("train")[:10]]


def test_splits_csv_holds_one_row_for_each_image(tmp_path, fill, put, spec):
    data = fill(tmp_path / "data")
    put(data / "a/conflict, too.png", 7777)
    put(data / "b/conflict.png", 7777)
    dataset = load_dataset(data, Data(patient="^([0-9]+|conflict)"), spec, 0)
    write_splits(dataset, tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "split", "patient", "sha256"]
    assert rows == [
        [sample.name, sample.label, sample.split, sample.patient, facts.sha256]
        for sample, facts in zip(dataset.samples, dataset.facts, strict=True)
    ]
    assert len(rows) == 42
    assert {row[2] for row in rows} == {*SPLITS, "set-aside"}
    assert all(row[4] for row in rows)


def test_splits_csv_beside_the_images_is_a_manifest_of_the_same_split(tmp_path, fill, put, spec):
    fill(tmp_path)
    put(tmp_path / "a/conflict.png", 7777)
    put(tmp_path / "b/conflict.png", 7777)
    drawn = load_dataset(tmp_path, Data(), spec, 1)
    write_splits(drawn, tmp_path / "splits.csv")
    again = load_dataset(tmp_path / "splits.csv", Data(), spec, 2)
    assert [sample.split for sample in again.samples] == [sample.split for sample in drawn.samples]
    assert again.sha256 == drawn.sha256


def test_a_data_set_depends_on_its_files_and_the_seed_alone(tmp_path, fill, spec):
    fill(tmp_path)
    first, again, other = (load_dataset(tmp_path, Data(), spec, seed) for seed in (3, 3, 4))
    assert first == again
    assert first.sha256 == again.sha256
    assert [sample.split for sample in first.samples] != [sample.split for sample in other.samples]
    assert first.sha256 != other.sha256


def test_the_hash_changes_with_a_name_a_label_a_split_or_a_content(tmp_path, fill, spec):
    dataset = load_dataset(fill(tmp_path), Data(), spec, 0)
    sample, facts = dataset.samples[0], dataset.facts[0]
    changed = [
        replace(dataset, samples=(replace(sample, **change), *dataset.samples[1:]))
        for change in ({"name": "a/00.png"}, {"label": "b"}, {"split": "set-aside"})
    ]
    changed.append(replace(dataset, facts=(replace(facts, sha256="0" * 64), *dataset.facts[1:])))
    assert len({dataset.sha256, *(other.sha256 for other in changed)}) == 5


def test_the_hash_is_of_the_files_bytes(tmp_path, fill, spec):
    before = load_dataset(fill(tmp_path), Data(), spec, 0)
    pixels = cv2.imread(str(tmp_path / "b/7.png"))
    cv2.imwrite(str(tmp_path / "b/7.png"), pixels ^ 1)
    after = load_dataset(tmp_path, Data(), spec, 0)
    assert [sample.split for sample in before.samples] == [sample.split for sample in after.samples]
    assert before.sha256 != after.sha256


def test_a_summary_counts_each_class_in_each_split(tmp_path, fill, put, manifest, spec):
    fill(tmp_path, count=4)
    splits = ("train", "train", "validation", "test")
    rows = (f"{label}/{i}.png,{label},p{i},{split}" for label in "ab" for i, split in enumerate(splits))
    put(tmp_path / "a/x.png", 7777)
    put(tmp_path / "b/x.png", 7777)
    dataset = load_dataset(manifest(tmp_path / "m.csv", *rows, "a/x.png,a,,", "b/x.png,b,,"), Data(), spec, 0)
    summary = dataset.summary()
    assert summary["images"] == 10
    assert summary["patients"] == 4
    assert summary["counts"] == {
        "train": {"a": 2, "b": 2},
        "validation": {"a": 1, "b": 1},
        "test": {"a": 1, "b": 1},
        "set-aside": {"a": 1, "b": 1},
    }


def test_an_examination_tells_the_gravest_first_and_refuses_nothing(tmp_path, fill, spec):
    fill(tmp_path / "train", classes=("a", "b", "c"))
    fill(tmp_path / "test", count=7)  # copies, and no image of `c`
    dataset = examine(tmp_path, Data(), spec, 0)
    lines = findings_text(dataset).splitlines()
    assert lines[0] == f"{tmp_path}: 74 images, 3 classes"
    assert lines[3] == "  c: 18 train, 2 validation"
    told = [line.partition(":")[0] for line in lines[4:] if not line.startswith(" ")]
    assert told == ["error", "error", "note"]
    assert lines[4].startswith("error: leakage: 28 images")
    assert lines[5:16] == [*(f"    {name}" for name in dataset.findings[0].examples[:10]), "    ... and 18 more"]
    with pytest.raises(UsageError, match="class 'c' has no image in the test split"):
        load_dataset(tmp_path, Data(), spec, 0)
