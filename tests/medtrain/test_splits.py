"""Splits: nothing that belongs together ever parts, drawn shares are kept, and a fixed split that leaks is refused."""

import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from medinfer.errors import UsageError
from medtrain.dataset import examine, load_dataset
from medtrain.layout import SPLITS, Sample, find_samples
from medtrain.recipe import Data
from medtrain.splits import split_samples
from medtrain.survey import Facts, survey


def described(rows):
    """Return samples and facts of images that lie nowhere: rows of label, number of the picture, patient, root."""
    samples, facts = [], []
    for i, (label, picture, patient, root) in enumerate(rows):
        name = f"{root}/{label}/{i:04}.png"
        samples.append(Sample(Path("data") / name, name, label, patient=patient, root=root))
        # Every other file holds the same picture in another format.
        facts.append(Facts(sha256=f"file {picture} {i % 2}", pixels=f"picture {picture}", format="png"))
    return samples, facts


def splits_of(samples):
    return {sample.name: sample.split for sample in samples}


def found(dataset, kind):
    """Return the one finding of a kind."""
    (finding,) = [finding for finding in dataset.findings if finding.kind == kind]
    return finding


ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 25),
        st.sampled_from(["", "", *(f"p{i}" for i in range(8))]),
        st.sampled_from(["", "ct"]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200)
@given(ROWS, st.integers(0, 1000))
def test_a_drawn_split_never_parts_copies_or_a_patients_images_not_even_of_both_labels(rows, seed):
    samples, facts = described(rows)
    split = split_samples(samples, facts, Data(validation=0.3, test=0.3), seed)
    sides, labels = defaultdict(set), defaultdict(set)
    for sample, fact in zip(split.samples, facts, strict=True):
        labels[fact.pixels].add(sample.label)
        if sample.split in SPLITS:
            sides[fact.pixels].add(sample.split)
            sides[sample.patient or sample.name].add(sample.split)
    assert all(len(splits) == 1 for splits in sides.values())
    # The copies of a picture under two labels, and nothing else, belong to no split.
    assert [sample.split not in SPLITS for sample in split.samples] == [len(labels[fact.pixels]) > 1 for fact in facts]
    assert not [finding for finding in split.findings if finding.kind == "leakage"]


@settings(max_examples=100)
@given(
    groups=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "ct"]), st.integers(1, 4)), min_size=1),
    shares=st.tuples(st.floats(0.05, 0.3), st.floats(0.05, 0.3)),
    seed=st.integers(0, 1000),
)
def test_each_class_of_each_root_has_its_share_within_one_group(groups, shares, seed):
    rows = [(label, i, f"p{i}", root) for i, (label, root, size) in enumerate(groups) for _ in range(size)]
    samples, facts = described(rows)
    validation, test = shares
    split = split_samples(samples, facts, Data(validation=validation, test=test), seed)
    totals = Counter((sample.label, sample.root) for sample in samples)
    counts = Counter((sample.split, sample.label, sample.root) for sample in split.samples)
    for (label, root), total in totals.items():
        assert counts["validation", label, root] == pytest.approx(validation * total, abs=4)
        assert counts["test", label, root] == pytest.approx(test * total, abs=4)


def test_where_nothing_belongs_together_the_shares_are_exact():
    samples, facts = described(
        [(label, 1000 * k + i, "", "") for k, label in enumerate("ab") for i in range(50 + 50 * k)]
    )
    split = split_samples(samples, facts, Data(validation=0.1, test=0.2), 0)
    counts = Counter((sample.label, sample.split) for sample in split.samples)
    assert counts == {
        ("a", "train"): 35,
        ("a", "validation"): 5,
        ("a", "test"): 10,
        ("b", "train"): 70,
        ("b", "validation"): 10,
        ("b", "test"): 20,
    }


@settings(max_examples=50)
@given(ROWS, st.randoms(use_true_random=False))
def test_a_split_depends_on_neither_the_order_of_the_files_nor_the_folder_they_lie_in(rows, random):
    samples, facts = described(rows)
    expected = splits_of(split_samples(samples, facts, Data(), 3).samples)
    moved = [replace(sample, path=Path("elsewhere") / sample.name) for sample in samples]
    pairs = list(zip(moved, facts, strict=True))
    random.shuffle(pairs)
    shuffled = split_samples([sample for sample, _ in pairs], [fact for _, fact in pairs], Data(), 3)
    assert [sample.name for sample in shuffled.samples] == [sample.name for sample, _ in pairs]
    assert splits_of(shuffled.samples) == expected


def test_another_seed_draws_another_split():
    samples, facts = described([("ab"[i % 2], i, "", "") for i in range(60)])
    drawn = [splits_of(split_samples(samples, facts, Data(), seed).samples) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_same_picture_in_two_formats_stays_on_one_side(tmp_path, fill, save, smooth, spec):
    fill(tmp_path, count=12)
    names = []
    for i in range(12):
        for suffix in (".png", ".bmp"):
            names.append(f"a/twin{i:02}{suffix}")
            save(tmp_path / names[-1], smooth(i, 16))
    samples = find_samples(tmp_path, Data()).samples
    facts = survey(samples, spec)
    for seed in range(3):
        split = splits_of(split_samples(samples, facts, Data(test=0.3, validation=0.3), seed).samples)
        assert all(split[png] == split[bmp] for png, bmp in zip(names[::2], names[1::2], strict=True))


def test_pictures_that_look_alike_stay_on_one_side_on_demand(tmp_path, fill, save, smooth, spec):
    fill(tmp_path, classes=("b",), count=12)
    for i in range(12):
        save(tmp_path / f"a/{i}.png", smooth(i))
        save(tmp_path / f"a/{i}.jpg", smooth(i) + 20)
    samples = find_samples(tmp_path, Data()).samples
    facts = survey(samples, spec)

    def parted(seed, near):
        shares = Data(test=0.3, validation=0.3, near_duplicates=near)
        split = splits_of(split_samples(samples, facts, shares, seed).samples)
        return [i for i in range(12) if split[f"a/{i}.png"] != split[f"a/{i}.jpg"]]

    assert [parted(seed, near=True) for seed in range(5)] == [[]] * 5
    assert parted(0, near=False)


@pytest.mark.parametrize("suffix", [".png", ".bmp"], ids=["the same bytes", "another format"])
def test_the_same_picture_under_two_labels_is_set_aside(tmp_path, fill, put, spec, suffix):
    fill(tmp_path)
    put(tmp_path / "a/conflict.png", 7777)
    put(tmp_path / f"b/conflict{suffix}", 7777)
    dataset = load_dataset(tmp_path, Data(), spec, 0)
    wrong = ["a/conflict.png", f"b/conflict{suffix}"]
    assert [sample.name for sample in dataset.split("set-aside")] == wrong
    conflict = found(dataset, "label-conflict")
    assert (conflict.severity, conflict.count, conflict.examples) == ("warning", 2, tuple(wrong))


def test_a_manifest_that_sets_one_of_two_labels_aside_has_decided_between_them(tmp_path, fill, put, manifest, spec):
    fill(tmp_path, count=10)
    put(tmp_path / "a/x.png", 7777)
    put(tmp_path / "b/x.png", 7777)
    rows = (f"{label}/{i}.png,{label},," for label in "ab" for i in range(10))
    dataset = load_dataset(manifest(tmp_path / "m.csv", *rows, "a/x.png,a,,set-aside", "b/x.png,b,,"), Data(), spec, 0)
    assert [sample.name for sample in dataset.split("set-aside")] == ["a/x.png"]


def pictures(dataset, split):
    return {fact.pixels for sample, fact in zip(dataset.samples, dataset.facts, strict=True) if sample.split == split}


@pytest.fixture
def leaking(tmp_path, fill):
    """Train and test folders; the ten test images are copies of training images."""
    fill(tmp_path / "Training")
    return fill(tmp_path / "Testing", count=5).parent


def test_a_test_folder_with_copies_of_training_images_is_refused(leaking, spec):
    with pytest.raises(UsageError, match="images have a copy or a patient in another split") as refused:
        load_dataset(leaking, Data(), spec, 0)
    assert refused.value.exit_code == 2
    assert "Testing/a/0.png" in str(refused.value)
    assert "drop-from-train" in str(refused.value)
    assert "--allow-leakage" in str(refused.value)


def test_copies_of_test_images_are_dropped_from_training_on_demand(leaking, spec):
    dataset = load_dataset(leaking, Data(on_leak="drop-from-train"), spec, 0)
    assert {sample.name.split("/")[0] for sample in dataset.split("test")} == {"Testing"}
    assert len(dataset.split("test")) == 10
    assert not pictures(dataset, "test") & (pictures(dataset, "train") | pictures(dataset, "validation"))
    dropped = sorted(f"Training/{label}/{i}.png" for label in "ab" for i in range(5))
    assert sorted(sample.name for sample in dataset.split("set-aside")) == dropped
    leak = found(dataset, "leakage")
    assert (leak.severity, leak.count, list(leak.examples)) == ("warning", 10, dropped)


def test_copies_of_validation_images_are_dropped_from_training_too(tmp_path, fill, spec):
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=5)
    fill(tmp_path / "test", count=2)
    dataset = load_dataset(tmp_path, Data(on_leak="drop-from-train"), spec, 0)
    assert {split: len(dataset.split(split)) for split in SPLITS} == {"train": 30, "validation": 6, "test": 4}
    assert not pictures(dataset, "validation") & pictures(dataset, "train")


def test_a_leak_is_accepted_on_demand_and_recorded(leaking, spec):
    dataset = load_dataset(leaking, Data(on_leak="allow"), spec, 0)
    assert not dataset.split("set-aside")
    assert pictures(dataset, "test") & (pictures(dataset, "train") | pictures(dataset, "validation"))
    leak = found(dataset, "leakage")
    assert (leak.severity, leak.count) == ("warning", 20)


def test_a_fixed_split_without_leaks_is_kept_and_validation_is_drawn_from_training(tmp_path, fill, spec):
    fill(tmp_path / "train/train")
    fill(tmp_path / "test/test", count=6, start=500)
    dataset = load_dataset(tmp_path, Data(), spec, 0)
    assert {sample.name.split("/")[0] for sample in dataset.split("test")} == {"test"}
    assert {sample.name.split("/")[0] for sample in dataset.split("train")} == {"train"}
    assert {sample.name.split("/")[0] for sample in dataset.split("validation")} == {"train"}
    assert {split: len(dataset.split(split)) for split in SPLITS} == {"train": 36, "validation": 4, "test": 12}
    assert not dataset.findings


def with_patients(manifest, data, patient):
    rows = (f"{k}/{i}.png,{k},{patient(k, i)},{'test' if i < 4 else 'train'}" for k in "ab" for i in range(20))
    return manifest(data / "m.csv", *rows)


def test_a_manifest_that_has_a_patient_on_both_sides_is_refused(tmp_path, fill, manifest, spec):
    fill(tmp_path)
    table = with_patients(manifest, tmp_path, lambda label, i: f"{label}{i // 5}")
    with pytest.raises(UsageError, match="10 images have a copy or a patient in another split") as refused:
        load_dataset(table, Data(), spec, 0)
    assert refused.value.exit_code == 2
    dataset = load_dataset(table, Data(on_leak="drop-from-train", validation=0.2), spec, 0)
    assert [sample.name for sample in dataset.split("set-aside")] == ["a/4.png", "b/4.png"]
    assert len(dataset.split("test")) == 8


def test_a_manifest_whose_patients_keep_to_one_side_is_accepted(tmp_path, fill, manifest, spec):
    fill(tmp_path)
    table = with_patients(manifest, tmp_path, lambda label, i: f"p{i // 2}")  # each patient has both labels
    dataset = load_dataset(table, Data(), spec, 0)
    sides = defaultdict(set)
    for sample in dataset.samples:
        sides[sample.patient].add(sample.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert len(dataset.split("test")) == 8


def test_a_published_split_that_parts_copies_is_refused_unless_leaks_are_allowed(tmp_path, fill, spec):
    fill(tmp_path)
    for i in range(20):
        shutil.copyfile(tmp_path / f"a/{i}.png", tmp_path / f"a/{i} copy.png")
    with pytest.raises(UsageError, match="in another split") as refused:
        load_dataset(tmp_path, Data(keep_together=False), spec, 0)
    assert refused.value.exit_code == 2
    dataset = load_dataset(tmp_path, Data(keep_together=False, on_leak="allow"), spec, 0)
    split = splits_of(dataset.samples)
    parted = {
        name for i in range(20) for name in (f"a/{i}.png", f"a/{i} copy.png") if split[name] != split[f"a/{i}.png"]
    }
    leak = found(dataset, "drawn-leakage")
    assert leak.severity == "warning"
    assert leak.count == 2 * len(parted) > 0
    assert load_dataset(tmp_path, Data(), spec, 0).errors == []


def test_a_split_that_need_not_keep_together_is_accepted_where_nothing_parts(tmp_path, fill, spec):
    dataset = load_dataset(fill(tmp_path), Data(keep_together=False), spec, 0)
    assert not dataset.findings


@pytest.fixture
def damaged(tmp_path, fill):
    """Class folders with three files that cannot be read."""
    fill(tmp_path)
    whole = (tmp_path / "b/6.png").read_bytes()
    for name, content in {"a/3.png": b"no picture", "b/4.png": b"", "b/6.png": whole[:100]}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_unreadable_images_are_refused_and_named(damaged, spec):
    with pytest.raises(UsageError, match="3 images cannot be read") as refused:
        load_dataset(damaged, Data(), spec, 0)
    assert refused.value.exit_code == 2
    for reason in ("a/3.png: not_an_image", "b/4.png: empty_file", "b/6.png: truncated", "--skip-bad"):
        assert reason in str(refused.value)


def test_unreadable_images_are_left_out_on_demand_and_recorded(damaged, spec):
    dataset = load_dataset(damaged, Data(skip_bad=True), spec, 0)
    assert [sample.name for sample in dataset.split("set-aside")] == ["a/3.png", "b/4.png", "b/6.png"]
    assert sum(len(dataset.split(split)) for split in SPLITS) == 37
    (unreadable,) = dataset.findings
    assert (unreadable.kind, unreadable.severity, unreadable.count) == ("unreadable", "warning", 3)
    assert [example.split(":")[0] for example in unreadable.examples] == ["a/3.png", "b/4.png", "b/6.png"]


def test_a_class_that_a_split_lacks_is_refused(tmp_path, fill, spec):
    fill(tmp_path / "train", classes=("a", "b", "c"))
    fill(tmp_path / "test", count=3, start=500)
    with pytest.raises(UsageError, match="class 'c' has no image in the test split") as refused:
        load_dataset(tmp_path, Data(), spec, 0)
    assert refused.value.exit_code == 2


def test_too_few_images_for_three_splits_are_refused(tmp_path, fill, spec):
    dataset = examine(fill(tmp_path, count=2), Data(), spec, 0)
    assert {error.message for error in dataset.errors} == {
        f"class {label!r} has no image in the validation split" for label in "ab"
    }


def test_a_few_large_patients_still_give_every_split_each_class(tmp_path, fill, manifest, spec):
    fill(tmp_path, count=20)
    rows = [f"{label}/{i}.png,{label},p{i // 5}," for label in "ab" for i in range(20)]
    dataset = load_dataset(manifest(tmp_path / "data.csv", *rows), Data(), spec, 0)
    patients = {name: len({sample.patient for sample in dataset.split(name)}) for name in SPLITS}
    assert patients == {"train": 2, "validation": 1, "test": 1}
