"""The journal of a long run: what a kill, a full disk, another model or a second process does to it."""

import errno
import json
import os

import pytest

from medinfer import journal as journals
from medinfer.errors import ImageError, ResourceError, UsageError
from medinfer.journal import Journal, journal_path
from medinfer.prediction import Prediction
from medinfer.results import as_record

HEADER = {"model_sha256": "ab", "provider": "cpu", "precision": "fp32", "shard": None}


def record(name, error=False):
    answer = {"error": {"code": "corrupt", "message": "x"}} if error else {"label": "a"}
    return {"path": name, **answer}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "r.csv"


@pytest.fixture
def interrupted(output):
    """A journal of two records, one of them an error."""
    with Journal(output, HEADER) as journal:
        journal.append(record("a.png"))
        journal.append(record("b.png", error=True))
    return journal_path(output)


def test_what_was_appended_is_there_for_the_next_run(output, interrupted):
    with Journal(output, HEADER, resume=True) as journal:
        assert dict(journal.done) == {"a.png": 1, "b.png": 1}
        assert journal.failed == 1
        journal.append(record("c.png"))
        assert [found["path"] for found in journal.records()] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("torn", [b"{", b'{"path": "c.png", "label"', b'{"path": "c.png", "label": "a"}'])
def test_a_line_torn_by_a_kill_is_dropped(output, interrupted, torn):
    whole = interrupted.read_bytes()
    interrupted.write_bytes(whole + torn)
    with Journal(output, HEADER, resume=True) as journal:
        assert "c.png" not in journal.done
        journal.append(record("d.png"))
    assert interrupted.read_bytes() == whole + json.dumps(record("d.png")).encode() + b"\n"


@pytest.mark.parametrize("cut", [1, 5])
def test_a_kill_while_the_header_was_written_is_no_obstacle(output, interrupted, cut):
    interrupted.write_bytes(interrupted.read_bytes()[:cut])
    with Journal(output, HEADER, resume=True) as journal:
        assert not journal.done
        journal.append(record("a.png"))
    with Journal(output, HEADER, resume=True) as journal:
        assert dict(journal.done) == {"a.png": 1}


@pytest.mark.parametrize("line", [b"[1]\n", b"junk\n", b"{}\n"])
def test_a_damaged_line_within_is_refused(output, interrupted, line):
    first, second, third = interrupted.read_bytes().splitlines(keepends=True)
    interrupted.write_bytes(first + second + line + third)
    with pytest.raises(UsageError, match="line 3: damaged"):
        Journal(output, HEADER, resume=True)


@pytest.mark.parametrize("field", HEADER)
def test_records_of_another_model_provider_or_shard_are_not_mixed_in(output, interrupted, field):
    before = interrupted.read_bytes()
    with pytest.raises(UsageError, match=f"{field} was") as caught:
        Journal(output, {**HEADER, field: "other"}, resume=True)
    assert caught.value.exit_code == 2
    assert interrupted.read_bytes() == before


def test_an_interrupted_run_is_neither_dropped_nor_continued_unasked(output, interrupted):
    with pytest.raises(UsageError, match="--resume"):
        Journal(output, HEADER)
    with Journal(output, HEADER, overwrite=True) as journal:
        assert not journal.done


def test_a_second_process_is_refused(output):
    with Journal(output, HEADER) as journal:
        journal.append(record("a.png"))
        with pytest.raises(UsageError, match="another process"):
            Journal(output, HEADER, resume=True)


def test_a_run_that_found_nothing_leaves_nothing(output):
    with Journal(output, HEADER):
        pass
    assert os.listdir(output.parent) == []


def test_a_full_disk_leaves_whole_lines_and_says_how_to_go_on(output, interrupted, monkeypatch):
    before = interrupted.read_bytes()
    right, calls = os.write, []

    def full(file, data):
        calls.append(data)
        if len(calls) == 1:
            return right(file, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(output, HEADER, resume=True) as journal:
        monkeypatch.setattr(journals.os, "write", full)
        with pytest.raises(ResourceError, match="No space left") as caught:
            journal.append(record("c.png"))
        monkeypatch.undo()
    assert caught.value.exit_code == 7
    assert "--resume" in caught.value.hint
    assert interrupted.read_bytes() == before


def test_a_name_that_is_not_utf8_is_known_again(output):
    name = os.fsdecode(b"caf\xe9.png")
    seen = Prediction(name, ("a", "b"), error=ImageError("corrupt", "x"))
    with Journal(output, HEADER) as journal:
        journal.append(as_record(seen))
    with Journal(output, HEADER, resume=True) as journal:
        assert dict(journal.done) == {name: 1}
