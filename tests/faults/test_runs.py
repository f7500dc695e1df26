"""The faults of folders and runs, by the command in a child process: its exit code, and one record for each input."""

from __future__ import annotations

import os
import socket
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.dicom_rows import DICOM, UNDECODED, scan
from tests.faults.files import dicom, noise
from tests.faults.picture_rows import PICTURES
from tests.faults.rows import cut, jpeg, png

import medinfer

DECODERS = "imagecodecs"


class Run(NamedTuple):
    """A folder as `arrange` leaves it; the exit code of a run over it, and what it says of each input."""

    number: int
    fault: str
    arrange: Callable[[Path], object]
    code: int
    said: dict[str, str]
    words: str = ""
    given: tuple[str, ...] = (".",)
    unprivileged: bool = False


def write(folder, *names, data=None):
    """Write a picture, or other data, under names that need not be text."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png() if data is None else data)


def of(*names, data=None):
    return lambda folder: write(folder, *names, data=data)


def answers(*names):
    return dict.fromkeys(names, "answer")


def documents(folder):
    write(folder, "a.eps", "b.svg", "c.pdf", "d.icns", data=b"%!PS")
    write(folder, "e.png")


def closed_file(folder):
    write(folder, "a.png", "closed.png", "z.png")
    (folder / "closed.png").chmod(0)


def closed_folder(folder):
    write(folder, "a.png", "closed/b.png")
    (folder / "closed").chmod(0)


def link_to_file(folder):
    write(folder, "a.png")
    (folder / "link.png").symlink_to("a.png")


def loops(folder):
    write(folder, "a.png")
    (folder / "up").symlink_to(".")
    (folder / "self").symlink_to("self")
    (folder / "self.png").symlink_to("self.png")


def special_files(folder):
    write(folder, "a.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "device.png").symlink_to("/dev/zero")
    before = os.getcwd()
    os.chdir(folder)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(before)


ODD = ["benign (1).png", "胸部.png", "two\nlines.png", '"double".png', "a,b.png", "=cmd().png", " .png", "-l.png"]
TWICE = [*(unicodedata.normalize(form, "Müller.png") for form in ("NFC", "NFD")), "A.png", "a.png"]
CLUTTER = ["Thumbs.db", ".DS_Store", "._a.png", "__MACOSX/a.png", "desktop.ini"]
MASKS = ["a.png", "a_mask.png"]
LONG = "x" * 300 + ".png"
SPECIAL = dict.fromkeys(["fifo.png", "device.png", "socket.png"], "not_regular_file")
DENIED = "permission_denied"

RUNS = [
    Run(24, "documents", documents, 0, answers("e.png"), "4 other files not looked at"),
    Run(25, "a closed file", closed_file, 3, answers("a.png", "z.png") | {"closed.png": DENIED}, unprivileged=True),
    Run(26, "a closed folder", closed_folder, 3, answers("a.png") | {"closed": DENIED}, unprivileged=True),
    Run(27, "a link to a file", link_to_file, 0, answers("a.png", "link.png")),
    Run(28, "loops of links", loops, 3, answers("a.png") | {"self.png": "os_error"}),
    Run(29, "a FIFO, a socket, a device", special_files, 3, answers("a.png") | SPECIAL),
    Run(30, "a link to nothing", lambda folder: (folder / "a.png").symlink_to("b"), 3, {"a.png": "not_found"}),
    Run(31, "a name that is not UTF-8", of(b"caf\xe9.png"), 0, answers("caf\\xe9.png")),
    Run(32, "odd names", of(*ODD), 0, answers(*ODD)),
    Run(33, "a name too long", of(), 3, {LONG: "os_error"}, given=(LONG,)),
    Run(34, "names alike but for normal form or case", of(*TWICE), 0, answers(*TWICE)),
    Run(38, "a file that is still being copied", of("a.jpg", data=cut(jpeg(), 0.7)), 3, {"a.jpg": "truncated"}),
    Run(39, "no images", of("notes.txt"), 2, {}, "no images found under . (1 other files)"),
    Run(40, "what desktops leave", of(*CLUTTER, "a.png"), 0, answers("a.png"), "5 other files not looked at"),
    Run(41, "masks", of(*MASKS), 0, answers(*MASKS)),
    Run(41, "masks left out", of(*MASKS), 0, answers("a.png"), given=(".", "--exclude", "*_mask.png")),
    Run(42, "DICOM without a suffix", of("IM0001", data=scan()), 0, answers("IM0001")),
]

# What no folder and no single file shows; each has a test of its own below.
OTHERWISE = (35, 36, 37, 49, 63)


@pytest.mark.parametrize("row", RUNS, ids=lambda row: f"F{row.number} {row.fault}")
def test_a_run_over_a_faulty_folder(row, records, tmp_path):
    row.arrange(tmp_path)
    code, said, words = records(tmp_path, *row.given, unprivileged=row.unprivileged)
    assert (code, said) == (row.code, row.said)
    assert row.words in words


def test_f35_a_large_folder_is_listed_in_little_memory_and_answered_from_the_first_file_on(model, tmp_path):
    write(tmp_path, "real")
    for number in range(20_000):
        (tmp_path / f"{number:05d}.png").symlink_to("real")
    found = iter(medinfer.find_images(tmp_path))
    tracemalloc.start()
    assert next(model().predict_many(found)).label
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert sum(1 for _ in found) >= 19_990  # the rest had not been taken yet


def test_f36_a_file_that_vanishes_after_it_was_listed_is_not_found_and_the_run_goes_on(model, tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png")

    def listed():
        for path in medinfer.find_images(tmp_path):
            if path.endswith("b.png"):
                os.remove(path)
            yield path

    seen = list(model().predict_many(listed()))
    assert [one.error and one.error.code for one in seen] == [None, "not_found", None]


def test_f37_a_file_is_read_once_so_it_cannot_change_between_its_check_and_its_use(model, tmp_path, monkeypatch):
    write(tmp_path, "a.png")
    opened, really_open = [], os.open

    def counting(path, *rest, **more):
        opened.append(path)
        return really_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", counting)
    assert model().predict(tmp_path / "a.png").label
    assert opened == [tmp_path / "a.png"]


def test_what_pydicom_repairs_is_not_reported_on_the_terminal(run, model_file, tmp_path):
    write(tmp_path, "odd.dcm", data=scan(SpecificCharacterSet="NO_SUCH", PatientName="DOE^JOHN"))
    done = run("odd.dcm", "-m", model_file(), "--provider", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    assert b"odd.dcm" in done.stdout
    assert not [word for word in (b"UserWarning", b"pydicom", b"NO_SUCH", b"DOE") if word in done.stdout + done.stderr]


def test_f49_a_missing_extra_is_named_with_what_to_install(records, tmp_path):
    """Whatever decoders are here, the child finds none."""
    for name, make in UNDECODED.items():
        write(tmp_path, f"{name}.dcm", data=make())
    absent = f"sys.modules.update(dict.fromkeys('{DECODERS}'.split()))"
    code, said, _ = records(tmp_path, before=absent)
    assert (code, said) == (3, {f"{name}.dcm": "missing_extra" for name in UNDECODED})


@pytest.mark.parametrize("kind", ["table", "csv", "jsonl"])
def test_f63_no_element_about_a_patient_reaches_an_output_or_a_message(kind, run, model_file, tmp_path):
    told = {"PatientName": "DOE^JANE", "PatientID": "4711-0815", "PatientBirthDate": "19700101"}
    data = dicom(noise(20, 20, 1), InstitutionName="St. Elsewhere", **told)
    misplaced = data.replace(b"MONOCHROME2", b"DOE^JANE   ")
    for name, bad in {"whole": data, "cut": data[:-9], "short": data[:400], "misplaced": misplaced}.items():
        write(tmp_path, f"{name}.dcm", data=bad)
    done = run(".", "-m", model_file(), "--provider", "cpu", "--format", kind, cwd=tmp_path)
    assert done.returncode == 3
    assert b"whole.dcm" in done.stdout
    for value in (*told.values(), "St. Elsewhere"):
        assert value.encode() not in done.stdout + done.stderr


def test_every_fault_of_files_is_tested():
    assert {row.number for row in [*PICTURES, *DICOM, *RUNS]} | set(OTHERWISE) == set(range(1, 64))
    here = vars(sys.modules[__name__])
    assert all(any(name.startswith(f"test_f{number}_") for name in here) for number in OTHERWISE)
