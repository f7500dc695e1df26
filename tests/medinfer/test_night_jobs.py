"""Runs of thousands of images into a file, as a job of the night does them: child processes, signals, shares."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

COMMAND = [str(Path(sys.executable).with_name("medinfer"))]


def medinfer(*words, cwd, stdin=None):
    return subprocess.run(
        [*COMMAND, *map(str, words), "--provider", "cpu"],
        cwd=cwd,
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
    )


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A model and 400 images under two folders, three of them bad."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "m.onnx").write_bytes(tiny_model.read_bytes())
    for i in range(400):
        path = folder / "images" / f"{i % 2}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8))
    for i in (7, 120, 301):
        (folder / "images" / f"{i % 2}" / f"{i:04d}.png").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """What an uninterrupted run writes."""
    assert medinfer("images", "-o", "whole.csv", cwd=folder).returncode == 3
    return rows(folder / "whole.csv")


def test_a_finished_run_leaves_the_result_and_what_ran_and_no_journal(folder, whole, tmp_path):
    assert len(whole) == 401
    assert sum(row[3] != "" for row in whole) == 1 + 3  # the header's own word and the bad ones
    assert not (folder / "whole.csv.part").exists()
    told = json.loads((folder / "whole.csv.meta.json").read_text())
    assert (told["records"], told["failed"], told["provider"], told["model"]) == (400, 3, "cpu", "m.onnx")
    assert len(told["model_sha256"]) == 64


def kill_and_resume(cwd, images, output, moments, number=signal.SIGKILL):
    """Run, and stop it after each of the moments (seconds after the first record); then let it finish."""
    codes = []
    for moment in moments:
        left = cwd / f"{output}.part"
        before = left.stat().st_size if left.exists() else 0
        child = subprocess.Popen(
            [*COMMAND, images, "-o", output, "--resume", "--provider", "cpu"], cwd=cwd, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if left.exists() and left.stat().st_size > max(before, 1000):
                break
            time.sleep(0.001)
        time.sleep(moment)
        child.send_signal(number)
        codes.append(child.wait())
    done = medinfer(images, "-o", output, "--resume", cwd=cwd) if not (cwd / output).exists() else None
    return codes, done


@pytest.mark.parametrize("output", ["r.csv", "r.jsonl"])
def test_kill_9_and_resume_give_what_an_uninterrupted_run_gives(folder, whole, output):
    codes, done = kill_and_resume(folder, "images", output, [0.0, 0.01, 0.03])
    assert -signal.SIGKILL in codes
    assert done is None or done.returncode == 3
    if output.endswith("csv"):
        assert rows(folder / output) == whole
    else:
        paths = [json.loads(line)["path"] for line in (folder / output).read_text().splitlines()]
        assert paths == [row[0] for row in whole[1:]]


@pytest.mark.slow
def test_kill_9_at_20_random_moments_of_5000_images(tmp_path, tiny_model):
    (tmp_path / "m.onnx").write_bytes(tiny_model.read_bytes())
    (tmp_path / "images").mkdir()
    for i in range(5000):
        cv2.imwrite(
            str(tmp_path / f"images/{i:04d}.jpg"), np.random.default_rng(i).integers(0, 256, (256, 256, 3), np.uint8)
        )
    assert medinfer("images", "-o", "whole.csv", cwd=tmp_path).returncode == 0
    moments = [random.Random(i).uniform(0, 0.25) for i in range(20)]
    codes, _ = kill_and_resume(tmp_path, "images", "r.csv", moments)
    assert codes.count(-signal.SIGKILL) >= 10
    assert rows(tmp_path / "r.csv") == rows(tmp_path / "whole.csv")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_keep_what_is_done_and_say_how_to_go_on(folder, whole, number, code, tmp_path):
    output = f"s{code}.csv"
    codes, done = kill_and_resume(folder, "images", output, [0.0], number)
    assert codes in ([code], [3])  # 3: it was faster than the signal
    assert done is None or "going on after" in done.stderr
    assert rows(folder / output) == whole


def test_a_resumed_run_with_another_model_is_refused(folder, tmp_path, build_model):
    (tmp_path / "r.csv.part").write_text(
        '{"medinfer_journal": 1, "model_sha256": "other"}\n{"path": "x", "label": "a"}\n'
    )
    done = medinfer(folder / "images", "-m", folder / "m.onnx", "-o", "r.csv", "--resume", cwd=tmp_path)
    assert done.returncode == 2
    assert "model_sha256 was other" in done.stderr
    assert (tmp_path / "r.csv.part").exists()


def test_the_shares_of_four_jobs_are_disjoint_and_together_the_whole(folder, whole):
    shares = []
    for i in (1, 2, 3, 4):
        medinfer("images", "-o", f"share{i}.csv", "--shard", f"{i}/4", cwd=folder)
        shares.append(rows(folder / f"share{i}.csv")[1:])
    assert sum(map(len, shares)) == 400
    assert all(50 < len(share) < 150 for share in shares)
    assert sorted(row for share in shares for row in share) == sorted(whole[1:])


def test_an_empty_share_is_a_file_without_rows(folder, tmp_path):
    image = folder / "images/0/0000.png"
    done = [
        medinfer(image, "-m", folder / "m.onnx", "-o", f"{i}.csv", "--shard", f"{i}/2", cwd=tmp_path) for i in (1, 2)
    ]
    assert [one.returncode for one in done] == [0, 0]
    assert sorted(len(rows(tmp_path / f"{i}.csv")) for i in (1, 2)) == [1, 2]


@pytest.mark.parametrize("share", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4"])
def test_a_share_that_is_none_is_refused(folder, share):
    done = medinfer("images", "--shard", share, cwd=folder)
    assert done.returncode == 2
    assert "is not I/N" in done.stderr


@pytest.mark.parametrize(("words", "bad"), [(["--strict"], 1), (["--max-errors", "0"], 1), (["--max-errors", "1"], 2)])
def test_a_run_stops_when_more_fail_than_may(folder, words, bad, tmp_path):
    done = medinfer(folder / "images", "-m", folder / "m.onnx", "-o", "r.csv", *words, cwd=tmp_path)
    assert done.returncode == 3
    assert f"stopped: {bad} inputs failed" in done.stderr
    assert not (tmp_path / "r.csv").exists()
    again = medinfer(folder / "images", "-m", folder / "m.onnx", "-o", "r.csv", "--resume", cwd=tmp_path)
    assert again.returncode == 3
    assert len(rows(tmp_path / "r.csv")) == 401


def test_failures_before_a_resume_count(folder, tmp_path):
    medinfer(folder / "images", "-m", folder / "m.onnx", "-o", "r.csv", "--max-errors", 0, cwd=tmp_path)
    done = medinfer(
        folder / "images", "-m", folder / "m.onnx", "-o", "r.csv", "--resume", "--max-errors", 1, cwd=tmp_path
    )
    assert "stopped: 2 inputs failed" in done.stderr


def test_archives_a_list_and_a_pattern_give_what_the_folder_gives(folder, whole):
    paths = [row[0] for row in whole[1:]]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in paths:
            archive.write(folder / path, path)
        archive.writestr("notes.txt", "not looked at")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for path in paths:
            archive.add(folder / path, path)
    for source, prefix, stdin in (
        ("a.zip", "a.zip/", None),
        ("a.tar.gz", "a.tar.gz/", None),
        ("-", "", "\n".join(paths)),
        ("images/*/*.png", "", None),
    ):
        done = medinfer(source, "--format", "csv", cwd=folder, stdin=stdin)
        assert done.returncode == 3, done.stderr
        found = list(csv.reader(io.StringIO(done.stdout)))
        assert [[row[0].removeprefix(prefix), *row[1:]] for row in found[1:]] == whole[1:]


def test_damaged_archives_give_records_and_no_traceback(folder, tmp_path):
    png = (folder / "images/0/0000.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.png", png)
        archive.writestr("2.png", png)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60] ^= 0xFF  # inside the first picture
    (tmp_path / "bad.zip").write_bytes(content)
    (tmp_path / "none.zip").write_bytes(b"junk")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder / "images", "images")
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:100_000])
    done = medinfer("bad.zip", "none.zip", "half.tar.gz", "-m", folder / "m.onnx", "--format", "csv", cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    found = {row[0]: row[3] for row in csv.reader(io.StringIO(done.stdout))}
    assert (found["bad.zip/1.png"], found["bad.zip/2.png"]) == ("corrupt", "")
    assert (found["none.zip"], found["half.tar.gz"]) == ("corrupt", "corrupt")
    assert found["half.tar.gz/images/0/0000.png"] == ""


@pytest.mark.parametrize(
    ("patterns", "left"),
    [(["0/*"], 200), (["1"], 200), (["*3.png"], 360), (["images/0/*"], 200), (["*3.png", "0/*"], 160), (["x*"], 400)],
)
def test_what_is_excluded_is_not_looked_at(folder, patterns, left):
    words = [word for pattern in patterns for word in ("--exclude", pattern)]
    done = medinfer("images", *words, "--format", "csv", cwd=folder)
    assert len(done.stdout.splitlines()) == left + 1


def test_parquet_holds_the_same_and_says_what_ran(folder, whole):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert medinfer("images", "-o", "r.parquet", cwd=folder).returncode == 3
    table = parquet.read_table(folder / "r.parquet")
    assert table.column_names == whole[0]
    found = table.to_pylist()
    assert [one["path"] for one in found] == [row[0] for row in whole[1:]]
    for one, row in zip(found, whole[1:], strict=True):
        assert (one["label"] or "", one["error"] or "") == (row[1], row[3])
        if one["label"]:
            assert abs(one["probability"] - float(row[2])) < 1e-6
    told = json.loads(table.schema.metadata[b"medinfer.results"])
    assert (told["records"], told["failed"]) == (400, 3)


def test_a_folder_that_does_not_exist_is_told_before_the_model_is_opened(folder):
    done = medinfer("images", "-m", "absent.onnx", "-o", "nowhere/r.csv", cwd=folder)
    assert done.returncode == 2
    assert "nowhere: no such folder" in done.stderr


def test_an_existing_result_is_kept_unless_told_otherwise(folder, whole):
    before = (folder / "whole.csv").read_bytes()
    for words in ([], ["--resume"]):
        done = medinfer("images", "-o", "whole.csv", *words, cwd=folder)
        assert done.returncode == 2
        assert "--overwrite" in done.stderr
    assert (folder / "whole.csv").read_bytes() == before
    assert medinfer("images", "-o", "whole.csv", "--overwrite", cwd=folder).returncode == 3
    assert rows(folder / "whole.csv") == whole


@pytest.mark.parametrize("words", [["--resume"], ["--format", "parquet"], ["-o", "r.csv", "--format", "table"]])
def test_options_that_need_a_file_or_do_not_go_with_one_are_refused(folder, words):
    assert medinfer("images", *words, cwd=folder).returncode == 2


def test_the_module_runs_like_the_command(folder):
    done = subprocess.run(
        [sys.executable, "-m", "medinfer", "--help"], capture_output=True, text=True, check=True, cwd=folder
    )
    assert "Run an exported medical image classifier" in done.stdout
    assert os.environ.get("HOME", "/nowhere") not in done.stdout
