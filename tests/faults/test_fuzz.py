"""Damaged files of every format: an answer or one of our errors; `make fuzz` does twenty thousand."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.fuzz import worker
from tests.faults.fuzz.__main__ import is_failure, table
from tests.faults.fuzz.cases import ORDER, Case, case, samples
from tests.faults.fuzz.worker import Outcome, outcomes

from medinfer.errors import IMAGE_CODES

ROOT = Path(__file__).parents[2]
TYPED = {"answer", *IMAGE_CODES, "ModelError", "SpecError"}


def fuzz(*words):
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_few_hundred_damaged_files_give_an_answer_or_a_typed_error():
    done = fuzz("--seed", "1", "--count", "400")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("400 cases of seed 1 from 0 in ")
    assert "| png | 80 |" in done.stdout


@pytest.mark.slow
def test_thousands_of_damaged_files_give_an_answer_or_a_typed_error():
    done = fuzz("--seed", "2", "--count", "6000")
    assert done.returncode == 0, done.stdout


# the harness itself


def test_a_case_is_told_by_its_seed_and_number_alone():
    first = case(3, 17)
    case(3, 18)
    assert case(3, 17) == first
    assert len({case(3, index).data for index in range(40)}) == 40
    assert [case(0, index).kind for index in range(20)] == ORDER


def test_whole_files_are_answered_within_the_limits_so_that_what_is_refused_was_damaged(monkeypatch):
    whole = [Case(0, kind, name, data) for kind in set(ORDER) for name, data in samples(kind).items()]
    monkeypatch.setattr(worker, "case", lambda _, index: whole[index]._replace(index=index))
    found = list(outcomes(0, range(len(whole))))
    refused = {(one.kind, one.sample): one.said for one in found if one.said != "answer"}
    assert not refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os._exit(3)", "left with exit code 3"),
        ("while True: pass", "hangs: more than 1 s"),
        ("bytearray(2 << 30)", "MemoryError"),
        ("for _ in range(20_000): area.write(bytes(4096))", "grew by"),
        ("from medinfer.errors import ResourceError; raise ResourceError('full')", "out of memory: full"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_case_goes_on(text, said, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 1)
    monkeypatch.setattr(worker, "MEMORY", 50 << 20)
    really = worker._runs

    def runs(folder):
        area = mmap.mmap(-1, 100 << 20)  # reserved before there is a limit
        return {**really(folder), "classify": lambda _: exec(text, {"area": area})}

    monkeypatch.setattr(worker, "_runs", runs)
    first = next(index for index in range(20) if ORDER[index] == "png")
    found = list(outcomes(0, [first, first + 20]))  # the second is prepared, not classified
    assert found[0].failed
    assert found[0].said.startswith(said)
    assert found[1].said in TYPED
    assert is_failure(found[0])


def test_a_death_over_a_model_is_told_and_is_no_failure_but_an_exception_is():
    death = Outcome(4, "onnx", "product", "killed by SIGSEGV", failed=True)
    assert not is_failure(death)
    assert is_failure(death._replace(said="KeyError: 'x'"))
    assert "| onnx | 1 | 0 |  | 0 | 1 |" in table([death])
