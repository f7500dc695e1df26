"""A folder as hospitals have them: every file gives one record, and nothing ends the run."""

import csv
import io
import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image


def _jpeg(**options):
    image = Image.fromarray(np.linspace(0, 255, 90 * 120 * 3).reshape(90, 120, 3).astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """The files of a bad day, and what is expected of each."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    (tmp_path / "truncated.jpg").write_bytes(_jpeg()[:-400])
    (tmp_path / "text.png").write_text("not a picture")
    cv2.imwrite(str(tmp_path / "sixteen.png"), np.full((50, 40), 40000, np.uint16))
    (tmp_path / "rotated.jpg").write_bytes(_jpeg(exif=rotated))
    Image.new("RGBA", (40, 50), (200, 100, 150, 128)).save(tmp_path / "rgba.png")
    (tmp_path / "zero.png").write_bytes(b"")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write(_jpeg())
    return tmp_path


EXPECTED = {
    "truncated.jpg": "truncated",
    "text.png": "not_an_image",
    "sixteen.png": "",
    "rotated.jpg": "",
    "rgba.png": "",
    "zero.png": "empty_file",
    "caf\\xe9.jpg": "",
}


def test_each_file_gives_one_record_and_the_run_ends_with_3(chain, run, folder):
    done = run("medinfer", folder, "--model", chain / "ckpt.onnx", "--provider", "cpu", cwd=chain)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    records = {row["path"].rpartition("/")[2]: row["error"] for row in csv.DictReader(done.stdout.splitlines())}
    assert records == EXPECTED
    assert "7 images, 3 failed" in done.stderr


def test_jsonl_gives_back_the_bytes_of_a_name_that_is_not_utf8(chain, run, folder):
    import base64

    done = run("medinfer", folder, "--format", "jsonl", "--model", chain / "ckpt.onnx", "--provider", "cpu", cwd=chain)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    named = [base64.b64decode(record["path_base64"]) for record in records if "path_base64" in record]
    assert named == [os.fsencode(folder) + b"/caf\xe9.jpg"]
    assert all(("error" in record) != ("label" in record) for record in records)


def test_a_rotated_jpeg_is_read_upright(chain, folder, tmp_path_factory):
    import medinfer

    upright = tmp_path_factory.mktemp("upright") / "upright.png"
    with Image.open(folder / "rotated.jpg") as image:
        np_image = np.rot90(np.array(image), -1)  # orientation 6: turn by 90 degrees clockwise
    Image.fromarray(np_image).save(upright)
    model = medinfer.load(chain / "ckpt.onnx", "cpu")
    assert model.predict(folder / "rotated.jpg").probabilities == model.predict(upright).probabilities


def test_a_bgr_array_is_answered_rightly_only_when_it_is_named(chain):
    import medinfer

    model = medinfer.load(chain / "ckpt.onnx", "cpu")
    path = next((chain / "phantom/test/parasitized").glob("*.png"))
    from_file, frame = model.predict(path), cv2.imread(str(path))
    assert model.predict(frame, color="bgr").probabilities == from_file.probabilities
    assert model.predict(frame).logits != from_file.logits
