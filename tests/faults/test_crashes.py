"""Files that crash their decoder among good ones: a record each, and a run that goes on; also when it is resumed."""

import csv

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless
from tests.faults.files import dicom, noise

GOOD, BAD = 200, 5
# The header of a lossless JPEG whose scan has no Huffman table: GDCM ends the process over it.
NO_TABLE = bytes.fromhex("ffd8ffc3000b08002800210101110 0ffda0008010100010000 00ffd9".replace(" ", ""))
# Replaces the decoder of JPEG-LS by one that ends its process.
CRASHING = """
from pathlib import Path
from medinfer.imaging import _isolation
text = Path(_isolation.PROGRAM).read_text(encoding="utf-8")
broken = Path("broken.txt")
broken.write_text(text.replace("def main()", "def crash(*_): os.abort()\\nCODECS['jpegls'] = crash\\n\\ndef main()", 1))
_isolation.PROGRAM = broken.resolve()
"""


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(GOOD):
        cv2.imwrite(str(images / f"{number:03}.png"), noise(20, 30, 1) + np.uint8(number % 50))
    pixels = noise(40, 33, 1)
    for number in range(BAD):
        stream = imagecodecs.jpegls_encode(pixels)
        (images / f"{40 * number:03}-crashes.dcm").write_bytes(dicom(pixels, syntax=JPEGLSLossless, fragment=stream))
    return tmp_path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_has_a_record_for_each_file_and_goes_on(run, model_file, folder):
    words = ("images", "-m", model_file(), "--provider", "cpu", "-o", "out.csv")
    assert run(*words, cwd=folder, before=CRASHING).returncode == 3
    rows = rows_of(folder / "out.csv")
    assert len(rows) == GOOD + BAD
    assert [row["error"] for row in rows if row["error"]] == ["corrupt"] * BAD
    assert all("decoder crashed (SIGABRT)" in row["message"] for row in rows if row["error"])


def test_a_run_that_stopped_among_them_is_finished_by_resume(run, model_file, folder):
    words = ("images", "-m", model_file(), "--provider", "cpu", "-o", "out.csv")
    assert run(*words, "--max-errors", "1", cwd=folder, before=CRASHING).returncode == 3
    assert not (folder / "out.csv").exists()
    assert run(*words, "--resume", cwd=folder, before=CRASHING).returncode == 3
    rows = rows_of(folder / "out.csv")
    assert len({row["path"] for row in rows}) == len(rows) == GOOD + BAD
    assert sum(bool(row["error"]) for row in rows) == BAD


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLosslessSV1[:-2] + "57"])
def test_a_codestream_that_ended_the_process_of_another_decoder_is_corrupt(syntax, model):
    data = dicom(noise(40, 33, 1), syntax=syntax, fragment=NO_TABLE)
    (seen,) = model().predict_many([data])
    assert seen.error.code == "corrupt"
