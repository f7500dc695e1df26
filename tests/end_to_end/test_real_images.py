"""Real images of the reference tasks, where the folder MEDONNX_DATA (by default ../shared/data) has them."""

import contextlib
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import medinfer
from medinfer.spec import InputSpec

DATA = Path(os.environ.get("MEDONNX_DATA", Path(__file__).parents[3] / "shared/data"))
SPEC = InputSpec(height=64, width=64, interpolation="area", mean=(0.5,) * 3, std=(0.5,) * 3)

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA} (set MEDONNX_DATA)"),
]


def some(folder, count):
    found = list(medinfer.find_images(DATA / folder))
    return found[:: max(1, len(found) // count)]


@pytest.mark.parametrize("task", ["brain-tumor-mri", "brain-tumor-ct-mri", "busi", "malaria", "cardiomegaly"])
def test_a_real_file_and_the_array_that_another_decoder_makes_of_it_give_the_same_tensor(task):
    for path in some(task, 25):
        with Image.open(path) as image:
            array = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        from_file = medinfer.preprocess(medinfer.read_image(path, SPEC), SPEC)
        assert np.array_equal(from_file, medinfer.preprocess(medinfer.read_image(array, SPEC), SPEC)), path


def test_real_dicom_files_are_read_and_the_broken_ones_refused_by_code():
    for path in some("dicom/gray", 100):
        assert medinfer.read_image(path, SPEC).dtype == np.uint8, path
    for path in some("dicom/other", 100):
        with contextlib.suppress(medinfer.ImageError):  # nothing else may be raised
            medinfer.read_image(path, SPEC)


def test_the_chain_on_real_cells(run, tmp_path):
    """A small network for two epochs: not how good it is, but that the three sides say the same."""
    cells = DATA / "malaria/cell_images"
    small = ["--arch", "small_cnn", "--weights", "none", "--set", "input.height=64", "--set", "input.width=64"]
    fitted = run("medtrain", "fit", cells, "--recipe", "malaria", "--epochs", 2, *small, cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    exported = run("medexport", "onnx", "ckpt.pt", "--data", cells, "--json", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    verdict = json.loads(exported.stdout)
    found = verdict["differences"]
    assert (verdict["images"], found["count"], found["label_flips"]) == ("data", 64, 0)
    assert verdict["accuracy"]["file"] == verdict["accuracy"]["checkpoint"]
    done = run("medinfer", cells, "--provider", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    label = {row["path"]: row["label"] for row in csv.DictReader(done.stdout.splitlines())}
    assert len(label) == 1000
    split = list(csv.DictReader((tmp_path / "splits.csv").read_text().splitlines()))
    test = [row for row in split if row["split"] == "test"]
    accuracy = np.mean([label[str(cells / row["path"])] == row["label"] for row in test])
    assert accuracy == json.loads((tmp_path / "metrics.json").read_text())["test"]["accuracy"]
