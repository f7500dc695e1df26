"""Where images may lie: folders as archives have them, several roots, manifests; what is taken and what is refused."""

import shutil
from collections import Counter

import pytest

from medinfer.errors import UsageError
from medtrain.layout import find_samples
from medtrain.recipe import Data


@pytest.mark.parametrize(
    "layout",
    [".", "archive/cell_images", "Training", "train/train"],
    ids=["class folders", "wrapped twice", "a train folder alone", "nested as Kaggle does"],
)
def test_classes_are_found_in_the_layouts_that_archives_have(tmp_path, fill, layout):
    fill(tmp_path / layout)
    found = find_samples(tmp_path, Data())
    assert found.classes == ("a", "b")
    prefix = "" if layout == "." else f"{layout}/"
    assert {sample.name for sample in found.samples} == {f"{prefix}{k}/{i}.png" for k in "ab" for i in range(20)}
    assert all(sample.name.split("/")[-2] == sample.label for sample in found.samples)
    assert {sample.split for sample in found.samples} == {""}


@pytest.mark.parametrize(
    "folders",
    [
        {"train/train": "train", "test/test": "test"},
        {"Training": "train", "Testing": "test"},
        {"archive/TRAIN": "train", "archive/Val": "validation", "archive/test": "test"},
        {"train": "train", "valid": "validation"},
        {"training": "train", "validation/validation": "validation"},
    ],
    ids="|".join,
)
def test_folders_named_for_a_split_fix_it(tmp_path, fill, folders):
    for k, folder in enumerate(folders):
        fill(tmp_path / folder, count=3, start=100 * k)
    samples = find_samples(tmp_path, Data()).samples
    assert len(samples) == 6 * len(folders)
    assert {sample.name.rsplit("/", 2)[0]: sample.split for sample in samples} == folders


def test_train_and_test_folders_are_pooled_on_demand(tmp_path, fill):
    fill(tmp_path / "Training", count=3)
    fill(tmp_path / "Testing", count=2, start=100)
    samples = find_samples(tmp_path, Data(mix_folders=True)).samples
    assert len(samples) == 10
    assert {sample.split for sample in samples} == {""}


def test_samples_are_sorted_by_name(tmp_path, fill):
    fill(tmp_path, classes=("b", "B2", "a"), count=12)
    names = [sample.name for sample in find_samples(tmp_path, Data()).samples]
    assert names == sorted(names)


MODALITIES = Data(roots=("Brain Tumor CT*", "Brain Tumor MRI*"))


def test_roots_may_hold_files_of_the_same_names(tmp_path, fill):
    fill(tmp_path / "Dataset/Brain Tumor CT scan Images", count=3)
    fill(tmp_path / "Dataset/Brain Tumor MRI images", count=5, start=100)
    fill(tmp_path / "Dataset/Notes", count=1, start=200)
    found = find_samples(tmp_path, MODALITIES)
    assert found.classes == ("a", "b")
    assert Counter(sample.root for sample in found.samples) == {
        "Brain Tumor CT scan Images": 6,
        "Brain Tumor MRI images": 10,
    }
    assert all(sample.name.startswith(f"Dataset/{sample.root}/{sample.label}/") for sample in found.samples)
    assert len({sample.name for sample in found.samples}) == 16


def test_each_root_may_be_wrapped_and_have_train_and_test_folders(tmp_path, fill):
    fill(tmp_path / "Brain Tumor CT/CT/Training", count=3)
    fill(tmp_path / "Brain Tumor CT/CT/Testing", count=2, start=100)
    fill(tmp_path / "Brain Tumor MRI", count=1, start=200)
    samples = find_samples(tmp_path, MODALITIES).samples
    assert Counter((sample.root, sample.split) for sample in samples) == {
        ("Brain Tumor CT", "train"): 6,
        ("Brain Tumor CT", "test"): 4,
        ("Brain Tumor MRI", ""): 2,
    }


def test_roots_that_are_not_there_are_named(tmp_path, fill):
    with pytest.raises(UsageError, match=r"none of the recipe's roots.*Brain Tumor CT\*, Brain Tumor MRI\*"):
        find_samples(fill(tmp_path, count=1), MODALITIES)


def test_files_that_differ_in_suffix_only_are_two_images(tmp_path, fill, put):
    fill(tmp_path, count=1)
    put(tmp_path / "a/x (1).png", 10)
    put(tmp_path / "a/x (1).jpg", 11)
    names = [sample.name for sample in find_samples(tmp_path, Data()).samples]
    assert names == ["a/0.png", "a/x (1).jpg", "a/x (1).png", "b/0.png"]


@pytest.mark.parametrize("outer", ["cell_images", "train"])
def test_a_second_copy_of_the_data_inside_them_is_left_out_and_recorded(tmp_path, fill, outer):
    fill(tmp_path / outer, count=4)
    shutil.copytree(tmp_path / outer, tmp_path / "copy")
    shutil.move(tmp_path / "copy", tmp_path / outer / "cell_images")
    found = find_samples(tmp_path, Data())
    assert found.nested_copies == (f"{outer}/cell_images",)
    assert found.classes == ("a", "b")
    assert len(found.samples) == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda nested, put: put(nested / "a/another.png", 0),
        lambda nested, put: put(nested / "a/1.png", 500, size=(20, 20)),
        lambda nested, put: (nested / "a").rename(nested / "c"),
    ],
    ids=["a file more", "another content", "another class"],
)
def test_a_folder_of_folders_that_is_no_copy_is_refused(tmp_path, fill, put, change):
    fill(tmp_path, count=4)
    change(fill(tmp_path / "cell_images", count=4), put)
    with pytest.raises(UsageError, match="cell_images: holds folders, not images"):
        find_samples(tmp_path, Data())


def test_masks_are_left_out_by_glob_and_counted(tmp_path, fill, put):
    fill(tmp_path, count=3)
    for i, name in enumerate(("a/1_mask.png", "a/1_mask_1.png", "b/2_mask.png")):
        put(tmp_path / name, 100 + i)
    found = find_samples(tmp_path, Data(exclude=("*_mask.*", "*_mask_*.*")))
    assert found.excluded == 3
    assert [sample.name for sample in found.samples if "mask" in sample.name] == []
    assert len(found.samples) == 6
    every = find_samples(tmp_path, Data())
    assert (every.excluded, len(every.samples)) == (0, 9)


def test_what_operating_systems_and_editors_leave_behind_is_ignored(tmp_path, fill):
    fill(tmp_path, count=2)
    for name in ("Thumbs.db", "a/Thumbs.db", "a/.DS_Store", "a/._0.png", "b/.hidden.png", "b/notes.txt"):
        (tmp_path / name).write_bytes(b"no picture")
    for name in (".git", "__MACOSX/a", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    found = find_samples(tmp_path, Data())
    assert [sample.name for sample in found.samples] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert (found.excluded, found.nested_copies) == (0, ())


def test_labels_that_look_like_values_stay_strings(tmp_path, fill, manifest):
    fill(tmp_path, classes=("true", "false", "1"), count=1)
    assert find_samples(tmp_path, Data()).classes == ("1", "false", "true")
    table = manifest(tmp_path / "m.csv", "true/0.png,true", "false/0.png,false", "1/0.png,1", columns="path,label")
    assert find_samples(table, Data()).classes == ("1", "false", "true")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data, fill: None, "0 classes found"),
        (lambda data, fill: fill(data, classes=("only",)), "classes found"),
        (lambda data, fill: (fill(data), (data / "empty").mkdir()), "empty: holds no image"),
        (lambda data, fill: fill(data, classes=("Normal", "normal ")), "'Normal' and 'normal ' differ only in case"),
        (
            lambda data, fill: (
                fill(data / "train", classes=("normal", "tumor")),
                fill(data / "test", classes=("Normal", "tumor")),
            ),
            "'Normal' and 'normal' differ only in case",
        ),
        (lambda data, fill: data.rmdir(), "no such folder or manifest"),
    ],
    ids=["nothing", "one class", "an empty class", "a misspelt class", "a class misspelt in test", "no folder"],
)
def test_a_folder_without_clear_classes_is_refused_with_the_reason(tmp_path, fill, make, message):
    data = tmp_path / "data"
    data.mkdir()
    make(data, fill)
    with pytest.raises(UsageError, match=message) as refused:
        find_samples(data, Data())
    assert refused.value.exit_code == 2


def test_the_patient_is_read_from_the_name_of_the_file(tmp_path, put):
    for name in ("a/C33P1_1.png", "a/C33P1_2.png", "b/C7_1.png"):
        put(tmp_path / name, len(name))
    samples = find_samples(tmp_path, Data(patient="^(C[0-9]+)")).samples
    assert [sample.patient for sample in samples] == ["C33", "C33", "C7"]
    put(tmp_path / "b/cell.png", 1)
    with pytest.raises(UsageError, match=r"b/cell\.png.*finds no patient"):
        find_samples(tmp_path, Data(patient="^(C[0-9]+)"))


def test_a_manifest_says_of_each_image_what_it_is(tmp_path, put, manifest):
    for i, name in enumerate(("images/1.png", "images/deep/2.jpg", "images/3.png", "images/4.png")):
        put(tmp_path / name, i)
    table = manifest(
        tmp_path / "m.csv",
        "p1,images/1.png, tumor ,Training,12",
        "p2,images/deep/2.jpg,healthy,VAL,13",
        ",images/3.png,healthy,,14",
        "p3,images/4.png,tumor,test,15",
        columns="patient,path,label,split,age",
    )
    found = find_samples(table, Data())
    assert [(s.name, s.label, s.patient, s.split) for s in found.samples] == [
        ("images/1.png", "tumor", "p1", "train"),
        ("images/3.png", "healthy", "", ""),
        ("images/4.png", "tumor", "p3", "test"),
        ("images/deep/2.jpg", "healthy", "p2", "validation"),
    ]
    assert all(sample.path == tmp_path / sample.name for sample in found.samples)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"], ids=["plain", "with the mark that Excel writes"])
def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path, fill, manifest, encoding):
    fill(tmp_path, classes=("gesund", "Ödem"), count=1)
    table = manifest(
        tmp_path / "m.csv", "gesund/0.png,gesund", "Ödem/0.png,Ödem", columns="path,label", encoding=encoding
    )
    assert find_samples(table, Data()).classes == ("gesund", "Ödem")


GOOD = ("a/0.png,a,p1,train", "b/0.png,b,p2,test")


@pytest.mark.parametrize(
    ("columns", "rows", "messages"),
    [
        ("path,class", ["a/0.png,a"], ["no column label"]),
        ("file,label", ["a/0.png,a"], ["no column path"]),
        (None, [*GOOD, "a/none.png,a,,"], ["1 rows", "line 4: a/none.png: no such file"]),
        (None, [*GOOD, "a,a,,"], ["line 4: a: no such file"]),
        (None, [*GOOD, "a/0.png,a,,"], ["2 rows", "line 2: a/0.png stands in 2 rows", "line 4: a/0.png stands in 2"]),
        (None, [*GOOD, "a/1.png,a,,holdout"], ["line 4: split 'holdout' is not one of train, validation, test"]),
        (None, [*GOOD, "a/1.png,,,"], ["line 4: no label"]),
        (None, [*GOOD, "a/1.png"], ["line 4: no label"]),
        (None, [*GOOD, ",a,,"], ["line 4: no path"]),
    ],
    ids=[
        "no label column",
        "no path column",
        "a missing file",
        "a folder",
        "a file twice",
        "an unknown split",
        "an empty label",
        "a short row",
        "an empty path",
    ],
)
def test_a_manifest_with_wrong_rows_is_refused_line_by_line(tmp_path, fill, manifest, columns, rows, messages):
    fill(tmp_path, count=2)
    table = manifest(tmp_path / "m.csv", *rows, columns=columns or "path,label,patient,split")
    with pytest.raises(UsageError) as refused:
        find_samples(table, Data())
    assert refused.value.exit_code == 2
    for message in messages:
        assert message in str(refused.value)


def test_of_many_wrong_rows_the_first_ten_are_told(tmp_path, fill, manifest):
    fill(tmp_path, count=1)
    table = manifest(tmp_path / "m.csv", *GOOD, *(f"none{i}.png,a,," for i in range(12)))
    with pytest.raises(UsageError, match="12 rows cannot be used") as refused:
        find_samples(table, Data())
    told = [line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]]
    assert told == [f"line {number}" for number in range(4, 14)]


@pytest.mark.parametrize("content", [None, b"", b"path,label\n\xff\xfe,a\n"], ids=["missing", "empty", "not UTF-8"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content):
    table = tmp_path / "m.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(UsageError, match=r"m\.csv") as refused:
        find_samples(table, Data())
    assert refused.value.exit_code == 2


def test_a_manifest_with_one_class_is_refused(tmp_path, fill, manifest):
    fill(tmp_path, count=1)
    with pytest.raises(UsageError, match="1 classes found"):
        find_samples(manifest(tmp_path / "m.csv", GOOD[0]), Data())
