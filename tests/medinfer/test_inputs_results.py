from __future__ import annotations

import base64
import csv
import io
import json
import os
import stat

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from medinfer.errors import ImageError, UsageError
from medinfer.files import atomic_file, refuse_existing
from medinfer.inputs import find_images
from medinfer.prediction import Prediction
from medinfer.results import FORMATS, writer

CLASSES = ("well", "ill, very", 'so-"called"')
DICOM = bytes(128) + b"DICM" + bytes(50)


# what is found


def make(root, *names, content=b""):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def found(root, *paths):
    search = find_images(*(paths or [root]))
    return [os.path.relpath(path, root) for path in search], search.skipped


def test_images_under_a_folder_are_found_recursively_and_sorted_by_name(tmp_path):
    make(tmp_path, "b.png", "a/z.jpg", "a/c/d.TIFF", "a.bmp", "B.webp", "c.JPEG", "10.dcm", "9.tif", "x.dicom", "y.jpe")
    names = ["10.dcm", "9.tif", "B.webp", "a/c/d.TIFF", "a/z.jpg", "a.bmp", "b.png", "c.JPEG", "x.dicom", "y.jpe"]
    assert found(tmp_path) == (names, 0)


def test_other_files_are_counted_and_not_yielded(tmp_path):
    make(tmp_path, "a.png", "notes.txt", "sub/labels.csv", "sub/png", "model.onnx", "a.png.bak", "README")
    assert found(tmp_path) == (["a.png"], 6)


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "desktop.ini", "._a.png", "__MACOSX/a.png"])
def test_what_desktops_leave_behind_is_passed_over_even_where_it_looks_like_an_image(name, tmp_path):
    make(tmp_path, "a.png", name, content=DICOM)
    assert found(tmp_path) == (["a.png"], 1)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619", "scan.ima", "folder/noname"])
def test_a_dicom_file_is_known_by_its_magic(name, tmp_path):
    make(tmp_path, name, content=DICOM)
    make(tmp_path, "short", content=DICOM[:131])
    make(tmp_path, "shifted", content=b"\0" + DICOM)
    assert found(tmp_path) == ([name], 2)


def test_explicit_paths_are_kept_as_given_in_their_order_whatever_they_are(tmp_path):
    make(tmp_path, "a.txt", "dir/b.png", "c.png")
    paths = [str(tmp_path / name) for name in ("c.png", "missing.png", "a.txt", "dir", "c.png")]
    search = find_images(*paths)
    assert list(search) == [*paths[:3], os.path.join(paths[3], "b.png"), paths[4]]
    assert search.skipped == 0


def test_a_loop_of_links_is_not_followed(tmp_path):
    make(tmp_path, "dir/a.png")
    (tmp_path / "dir" / "again").symlink_to(tmp_path)
    assert found(tmp_path) == (["dir/a.png"], 1)


def test_links_to_files_are_found_and_a_folder_named_by_a_link_is_searched(tmp_path):
    make(tmp_path, "dir/a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "dir" / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "dir")
    assert found(tmp_path)[0] == ["broken.png", "dir/a.png", "link.png"]
    assert found(tmp_path, tmp_path / "link")[0] == ["link/a.png"]


@pytest.mark.usefixtures("no_waiting")
def test_a_fifo_in_a_folder_is_passed_over_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path) == ([], 1)


def test_a_folder_named_like_an_image_is_searched(tmp_path):
    make(tmp_path, "dir.png/a.png")
    assert found(tmp_path) == (["dir.png/a.png"], 0)


def test_a_folder_that_cannot_be_listed_is_yielded_for_its_error_to_be_told(tmp_path, monkeypatch):
    make(tmp_path, "dir/a.png", "z.png")
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "dir":
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path)[0] == ["dir", "z.png"]


def test_a_search_is_lazy_and_can_be_done_again(tmp_path):
    search = find_images(tmp_path)
    make(tmp_path, "a.png")
    assert list(search) == list(search) == [str(tmp_path / "a.png")]


def test_no_path_is_a_usage_error():
    with pytest.raises(UsageError, match="no path"):
        find_images()


# what is written


def good(source, scores=(0.25, 0.7, 0.05)):
    return Prediction(source, CLASSES, np.float32(scores), np.float32([1, 2, 3]))


def bad(source, message="no image starts with b'a'"):
    return Prediction(source, CLASSES, error=ImageError("not_an_image", message, hint="Supported: PNG."))


def written(kind, *predictions):
    stream = io.StringIO()
    write = writer(kind, stream, CLASSES)
    for prediction in predictions:
        write(prediction)
    return stream.getvalue()


HOSTILE = [
    "scan.png",
    "a,b.png",
    'say "hi".png',
    "two\nlines.png",
    "carriage\rreturn.png",
    "\x1b[31mred.png",
    "ü/日.png",
]
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


@pytest.mark.parametrize("source", HOSTILE)
def test_csv_has_a_row_for_each_image_whatever_its_name(source):
    header, first, second = csv.reader(io.StringIO(written("csv", good(source), bad(source)), newline=""))
    common = ["path", "label", "probability", "error", "message", "warnings"]
    assert header == [*common, *(f"p({name})" for name in CLASSES)]
    assert first == [source, "ill, very", "0.700000", "", "", "", "0.250000", "0.700000", "0.050000"]
    assert second == [source, "", "", "not_an_image", "no image starts with b'a'. Supported: PNG.", "", "", "", ""]


@pytest.mark.parametrize("source", HOSTILE)
def test_jsonl_has_a_line_for_each_image_whatever_its_name(source):
    first, second = map(json.loads, written("jsonl", good(source), bad(source)).splitlines())
    assert first == {
        "path": source,
        "label": "ill, very",
        "probability": 0.7,
        "probabilities": {"well": 0.25, "ill, very": 0.7, 'so-"called"': 0.05},
        "warnings": [],
    }
    error = {"code": "not_an_image", "message": "no image starts with b'a'. Supported: PNG."}
    assert second == {"path": source, "error": error}


def test_a_name_that_is_not_utf8_is_escaped_and_jsonl_gives_its_bytes_back():
    for kind in FORMATS:
        text = written(kind, good(NOT_UTF8), bad(NOT_UTF8))
        text.encode("utf-8")
        assert text.count("caf") == 2
    record = json.loads(written("jsonl", good(NOT_UTF8)))
    assert record["path"] == "caf\\xe9.png"
    assert base64.b64decode(record["path_base64"]) == b"caf\xe9.png"


@pytest.mark.parametrize("source", HOSTILE)
def test_the_table_has_a_line_for_each_image_and_no_control_characters(source, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = written("table", good(source), bad(source)).split("\n")
    assert len(lines) == 4  # header, two images, the end
    assert all(line.isprintable() for line in lines)
    assert lines[0].split() == ["label", "probability", "path"]
    assert lines[1].startswith("ill, very")
    assert "0.7000" in lines[1]
    assert "not_an_image: no image starts with b'a'. Supported: PNG." in lines[2]


def test_the_table_shortens_a_long_path_from_the_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    line = written("table", good("folder/" * 30 + "scan.png")).splitlines()[1]
    assert len(line) <= 60
    assert line.endswith("folder/scan.png")
    assert "..." in line


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_without_a_path_is_written_too(kind):
    assert "ill, very" in written(kind, good(None))


@example(source="\r")
@given(source=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_path_comes_back_from_csv_and_jsonl(source):
    rows = list(csv.reader(io.StringIO(written("csv", good(source)), newline="")))
    assert [row[0] for row in rows] == ["path", source]
    assert json.loads(written("jsonl", good(source)))["path"] == source


# files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_once_it_is_done(tmp_path):
    path = tmp_path / "out.csv"
    with atomic_file(path) as file:
        file.write("a\nü\udce9\r\n")
        assert not path.exists()
    assert path.read_bytes() == "a\nü\\udce9\r\n".encode()
    assert names(tmp_path) == ["out.csv"]


def test_bytes_are_written_as_they_are(tmp_path):
    with atomic_file(tmp_path / "out", binary=True) as file:
        file.write(b"\r\n\xff")
    assert (tmp_path / "out").read_bytes() == b"\r\n\xff"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_leaves_the_old_file_and_nothing_else(existing, error, tmp_path):
    path = tmp_path / "out.csv"
    if existing:
        path.write_text("old")

    def write():
        with atomic_file(path) as file:
            file.write("new" * 100_000)
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == (["out.csv"] if existing else [])
    assert not existing or path.read_text() == "old"


def test_a_finished_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_file(tmp_path / "out"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out")}
    assert len(modes) == 1


def test_a_missing_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such folder"), atomic_file(tmp_path / "missing" / "out"):
        pass


def test_an_existing_result_is_refused_unless_it_may_be_overwritten(tmp_path):
    path = tmp_path / "out.csv"
    refuse_existing(path, overwrite=False)
    path.touch()
    refuse_existing(path, overwrite=True)
    with pytest.raises(UsageError, match="--overwrite"):
        refuse_existing(path, overwrite=False)
    with pytest.raises(UsageError, match="is a folder"):
        refuse_existing(tmp_path, overwrite=True)


def test_warnings_stand_in_every_format():
    noted = Prediction("a.dcm", CLASSES, *map(np.float32, ([0.25, 0.7, 0.05], [1, 2, 3])), warnings=("one", "two"))
    (row,) = csv.DictReader(io.StringIO(written("csv", noted)))
    assert row["warnings"] == "one|two"
    assert json.loads(written("jsonl", noted))["warnings"] == ["one", "two"]
    assert "a.dcm  (one, two)" in written("table", noted)
