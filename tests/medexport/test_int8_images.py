"""What an int8 file is calibrated, chosen and judged on."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

import medinfer
from medexport.build import build_file
from medexport.reference import images_of
from medexport.splits import balanced, images_of_splits, tensors_of
from medexport.verify import judge
from medinfer.errors import UsageError, VariantError
from medinfer.spec import Graph

INT8 = Graph(precision="int8")


def test_no_image_is_calibrated_on_that_is_judged_on(run, rows, images):
    for name, found in (("train", images.calibration), ("validation", images.validation), ("test", images.test)):
        assert {one.path for one in found} <= {str(run[1] / row["path"]) for row in rows[name]}
    assert [str(one.path) for one in images.test] == images.images
    assert len(images.test) == len(rows["test"])


def test_as_many_images_of_each_class_are_calibrated_on():
    rows = [
        {"label": name, "path": str(i)} for name, count in (("a", 500), ("b", 100), ("c", 20)) for i in range(count)
    ]
    chosen = balanced(rows, ("a", "b", "c"))
    assert [sum(row["label"] == name for row in chosen) for name in "abc"] == [85, 85, 20]
    spread = [int(row["path"]) for row in chosen if row["label"] == "a"]
    assert spread[0] == 0
    assert spread[-1] > 490


def changed(run, tmp_path, change):
    """Return a copy of splits.csv with its rows changed."""
    with run[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "splits.csv"


def move_a_test_image_into_train(rows):
    next(row for row in rows if row["split"] == "test")["split"] = "train"


def drop_a_row(rows):
    del rows[3]


def change_a_label(rows):
    rows[0]["label"] = next(row["label"] for row in rows if row["label"] != rows[0]["label"])


def change_a_hash(rows):
    rows[0]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    "change", [move_a_test_image_into_train, drop_a_row, change_a_label, change_a_hash], ids=lambda one: one.__name__
)
def test_splits_that_are_not_those_of_the_training_are_refused(run, tmp_path, change):
    with pytest.raises(UsageError, match="not the images and splits that this checkpoint was trained on"):
        images_of_splits(changed(run, tmp_path, change), run[1], run[0].spec)


def test_an_image_that_was_changed_or_is_missing_is_refused(run, rows, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(run[1], data)
    first = data / rows["test"][0]["path"]
    first.write_bytes(first.read_bytes() + b" ")
    with pytest.raises(UsageError, match=f"{first.name}: not the image that was trained with"):
        images_of_splits(run[2], data, run[0].spec)
    first.unlink()
    with pytest.raises(UsageError, match=f"{first.name}: No such file"):
        images_of_splits(run[2], data, run[0].spec)


def test_too_few_test_images_are_refused(run, tmp_path):
    def shrink(rows):
        rows[:] = [row for row in rows if row["split"] != "test"] + [row for row in rows if row["split"] == "test"][:49]

    spec = replace(run[0].spec, provenance=replace(run[0].spec.provenance, data_sha256=None))
    with pytest.raises(UsageError, match="49 test images; it takes 50"):
        images_of_splits(changed(run, tmp_path, shrink), run[1], spec)


def test_copies_of_what_is_judged_on_are_not_calibrated_on(run, rows, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(run[1], data)
    first, second, third = (rows[name][0]["path"] for name in ("train", "validation", "test"))
    for path in (first, second):
        shutil.copy(data / third, data / path)
    spec = replace(run[0].spec, provenance=replace(run[0].spec.provenance, data_sha256=None))

    def believe_the_copies(rows):
        rows[:] = [{**row, "sha256": ""} for row in rows]

    found = images_of_splits(changed(run, tmp_path, believe_the_copies), data, spec)
    assert str(data / third) in {one.path for one in found.test}
    assert str(data / first) not in {one.path for one in found.calibration}
    assert str(data / second) not in {one.path for one in found.validation}


def test_an_image_that_cannot_be_read_is_refused_by_name(run, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"broken\.png: int8 cannot be calibrated"):
        tensors_of([images.calibration[0]._replace(path=str(tmp_path / "broken.png"))], run[0].spec.input)


def test_images_without_labels_or_too_few_tell_nothing_of_int8(run, int8, picture, tmp_path):
    for i in range(60):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(48, 40, seed=i))
    model = medinfer.load(int8, "cpu")
    with pytest.raises(VariantError, match="60 images tell too little"):
        judge(run[0], model, images_of(tmp_path, None))
    with pytest.raises(VariantError, match="40 images tell too little"):
        judge(run[0], model, images_of(run[1], 40))


def test_int8_without_the_splits_is_refused_before_any_work(run, tmp_path):
    for images in (None, images_of(run[1])):
        with pytest.raises(UsageError, match="calibrated on training images"):
            build_file(run[0], tmp_path / "model.onnx", graph=INT8, images=images)


def test_an_int8_file_is_not_judged_on_drawn_images(run, int8):
    with pytest.raises(UsageError, match="real images"):
        judge(run[0], medinfer.load(int8, "cpu"), images_of(None))


def test_heatmaps_of_int8_are_refused(run, images, tmp_path):
    with pytest.raises(UsageError, match="heatmaps"):
        build_file(run[0], tmp_path / "m.onnx", graph=replace(INT8, extra_outputs=("heatmap",)), images=images)


def test_paths_of_images_are_those_of_the_table(images):
    assert Path(images.name(0)).is_file()
    assert images.label(0, ("a", "b", "c")) in (0, 1, 2)
