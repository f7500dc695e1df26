"""The benchmark suite: what it calls a change, what it keeps out of a table, and that it runs from end to end."""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import entries as entries_module, subjects, suite
from benchmarks.__main__ import cli
from benchmarks.compare import changes, interval
from benchmarks.entries import ENTRIES, Entry
from benchmarks.figures import figures, percentile
from benchmarks.process import ContestantError, run
from benchmarks.report import markdown, write
from benchmarks.settings import Setting, Settings, Subject, combinations, load
from benchmarks.subjects import Prepared
from benchmarks.verdict import verdict
from click.testing import CliRunner

from medinfer.errors import UsageError

ROUNDS, IMAGES = 5, 100
TEMPERATURE = 1.5
SPEC = SimpleNamespace(
    classes=("a", "b"),
    calibration=SimpleNamespace(temperature=TEMPERATURE),
    input=SimpleNamespace(height=8, width=8, interpolation="area"),
)
AGREES = {"of": "logits", "max_difference": 1e-6, "agrees": True, "flips": 0, "accuracy": 0.9, "macro_auc": 0.95}


def row(contestant, scenario="offline", *, seconds=1.0, seed=0, drift=1.0, agreement=AGREES, **more):
    """A row whose rounds differ by a few percent; `drift` is how slow the machine is."""
    chance = random.Random(f"{contestant}{scenario}{seed}")
    samples = []
    for _ in range(ROUNDS):
        noise = chance.lognormvariate(0, 0.03)
        one = {"ready": 0.5, "end": 0.5 + seconds * drift * noise, "wall": 0.6 + seconds * drift * noise}
        one |= {"cpu": 2 * seconds * drift * noise, "peak_mb": 100.0, "others": 0.0, "first": 0.7 * drift * noise}
        one |= {
            "latencies": [10 * drift * noise] * 20,
            "parts": {"decode": 4 * drift * noise, "run": 15 * drift * noise},
        }
        samples.append(one)
    setting = Setting(scenario=scenario).to_json()
    start = {"subject": "net", "contestant": contestant, **setting, "images": IMAGES}
    return {**start, "agreement": agreement, "failure": None, "samples": samples, **more}


def results(*rows):
    machine = {"cores": 2, "processor": "a processor", "commit": "abc", "gpu": None}
    settings = {"rounds": ROUNDS, "images": IMAGES}
    head = {"format": 1, "date": "2026-01-02T03:04:05", "command": "python -m benchmarks run", "absent": {}}
    return {**head, "machine": machine, "settings": settings, "rows": list(rows)}


def whole(seed=0, drift=1.0, seconds=1.0):
    limit = row("the limit", seed=seed, drift=drift, agreement=None)
    others = (row(name, seed=seed, drift=drift, seconds=seconds) for name in ("medinfer", "naive loop"))
    return results(limit, *others, row("medinfer", "single", seed=seed, drift=drift, seconds=seconds))


@pytest.mark.parametrize("seed", range(20))
def test_two_runs_of_the_same_program_are_no_change(seed):
    assert changes(whole(seed), whole(seed + 100)) == []


def test_a_slower_machine_is_no_change():
    assert changes(whole(0), whole(1, drift=1.5)) == []


def test_a_slower_program_is_named_and_nothing_else():
    after = whole(1)
    after["rows"][1] = row("medinfer", seed=1, seconds=1.5)
    lines = changes(whole(0), after)
    assert lines
    assert all(line.startswith("net offline medinfer: ") and line.endswith("WORSE") for line in lines)
    back = changes(after, whole(0))
    assert len(back) == len(lines)
    assert all(line.endswith("better") for line in back)


def test_a_disagreement_is_named_whatever_its_speed():
    after = whole(1)
    after["rows"][2]["agreement"] = {**AGREES, "agrees": False, "flips": 3, "accuracy": 0.87}
    told = "\n".join(changes(whole(0), after))
    assert "naive loop: agrees was True, is False, WORSE" in told
    assert "naive loop: flips was 0, is 3, WORSE" in told
    assert "naive loop: accuracy was 0.9, is 0.87, WORSE" in told


def test_more_cores_are_no_change_of_the_program():
    """Twice the cores do twice the images, and so does the limit."""
    after = whole(1)
    for one in after["rows"]:
        for sample in one["samples"]:
            sample["end"] -= (sample["end"] - sample["ready"]) / 2 if one["scenario"] == "offline" else 0
    after["machine"]["cores"] = 4
    assert changes(whole(0), after) == []


def test_without_a_limit_on_one_side_figures_are_compared_as_they_are():
    after = whole(1)
    after["rows"] = [one for one in after["rows"] if one["contestant"] != "the limit"]
    assert changes(whole(0), after) == ["net offline the limit: only before"]


def test_a_server_that_holds_no_rate_is_told():
    before, after = (results(row("medinfer", "server", seed=seed)) for seed in (0, 1))
    for one, rate in ((before, 50.0), (after, 0.0)):
        for sample in one["rows"][0]["samples"]:
            sample["rate"] = rate
    assert changes(before, after) == ["net server medinfer: requests/s is none in a round of one side"]
    assert changes(after, after) == []


def test_a_failure_and_a_row_that_is_gone_are_named():
    after = whole(1)
    after["rows"][1] = {**after["rows"][1], "failure": "ended with 1", "samples": []}
    del after["rows"][3]
    told = "\n".join(changes(whole(0), after))
    assert "net offline medinfer: failure was None, is 'ended with 1'" in told
    assert "net single medinfer: only before" in told


def test_an_interval_of_known_values():
    """Worked by hand: equal spreads, so Welch's degrees of freedom are 2 (n - 1) = 4; t(0.975, 4) = 2.776."""
    before, after = np.exp([-0.1, 0.0, 0.1]), np.exp([0.4, 0.5, 0.6])
    ratio, low, high = interval(before, after, level=0.05)
    half = 2.7764 * np.sqrt(2 * 0.01 / 3)
    assert np.log([ratio, low, high]) == pytest.approx([0.5, 0.5 - half, 0.5 + half], abs=1e-4)
    assert interval([1.0], [2.0], level=0.05) == (pytest.approx(2.0), 0.0, float("inf"))


def test_figures_of_a_row():
    found = figures(row("medinfer"))
    assert set(found) == {"rate", "whole", "cpu", "peak"}
    assert found["rate"][0] == pytest.approx(IMAGES / (row("medinfer")["samples"][0]["end"] - 0.5))
    assert [percentile(range(1, 101), share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([7.0], 99) == 7.0


def test_what_disagrees_is_kept_out_of_the_table(tmp_path):
    found = whole()
    found["rows"][2]["agreement"] = {**AGREES, "agrees": False, "flips": 3}
    table, others = markdown(found).split("Not the checkpoint's answers, and so not to be compared:")
    assert "| medinfer |" in table
    assert "naive loop" not in table
    assert "| naive loop |" in others.split("###")[0]
    assert re.search(r"The limit is 1\d\d\.\d images/s", table)  # 2 cores / 19 ms = 105, and noise
    write(found, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<td>naive loop</td>" in page


def test_settings_leave_out_what_means_nothing():
    found = list(
        combinations(
            Settings(
                subjects=(Subject(name="a"),),
                scenarios=("single", "offline"),
                providers=("cpu", "cuda"),
                tf32=(False, True),
                batches=(0, 8),
            )
        )
    )
    assert len(found) == len(set(found)) == 9
    assert not any(one.tf32 for one in found if one.provider == "cpu")
    assert not any(one.batch for one in found if one.scenario == "single")


@pytest.mark.parametrize("text", ["rounds = 0", "providers = ['gpu']", "scenarios = ['offlin']", "surprise = 1", "x ="])
def test_settings_that_cannot_be_used_are_refused(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(f"subjects = [{{ name = 'a' }}]\n{text}\n")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load(str(path))


@pytest.mark.parametrize(
    "path", sorted((Path(suite.__file__).parent / "settings").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_settings_that_come_along_are_sound(path):
    settings = load(path.stem)
    assert set(settings.contestants) <= set(ENTRIES)


def test_a_verdict_on_logits_and_on_probabilities(tmp_path, monkeypatch):
    reference = np.float32([[2, 0], [0, 3], [1, 0]])
    subject = Prepared("net", tmp_path / "none.pt", ("a/1.png", "b/2.png", "b/3.png"), tmp_path)
    vars(subject).update(reference=reference, labels=["a", "b", "b"], spec=SPEC)
    same = verdict(subject, reference + np.float32(1e-5), "logits", "fp32")
    assert (same["agrees"], same["flips"], same["accuracy"]) == (True, 0, pytest.approx(2 / 3))
    other = verdict(subject, reference[:, ::-1].copy(), "logits", "fp32")
    assert (other["agrees"], other["flips"], other["accuracy"]) == (False, 3, pytest.approx(1 / 3))
    powers = np.exp(reference / TEMPERATURE)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    assert verdict(subject, probabilities.round(6), "probabilities", "fp32")["agrees"]
    assert not verdict(subject, probabilities + np.float32([[2e-4, -2e-4]]), "probabilities", "fp32")["agrees"]
    nothing = verdict(subject, np.full_like(reference, np.nan), "logits", "fp32")
    assert (nothing["agrees"], nothing["flips"]) == (False, 3)
    assert not verdict(subject, reference[:, :1], "logits", "fp32")["agrees"]


FAKE = """
from protocol import main

class Fake:
    def __init__(self, task):
        if task.setting == "broken":
            raise SystemExit("no such thing")
        self.few = task.setting == "few"
        self.answer = [3.0 if self.few else float(task.setting or 0), 0.0]
    def one(self, path):
        return self.answer
    def many(self, paths):
        return map(self.one, paths[:1] if self.few else paths)

main(Fake)
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Contestants that answer at once, on a subject of three images that the checkpoint calls the first class."""
    scripts = tmp_path / "contestants"
    scripts.mkdir()
    (scripts / "fake.py").write_text(FAKE)
    (scripts / "protocol.py").write_text((Path(suite.__file__).parent / "contestants" / "protocol.py").read_text())
    named = {"right": "3", "wrong": "-3", "broken": "broken", "few": "few"}
    fakes = {
        name: Entry(name, name, "fake.py", "checkpoint", Path(sys.executable), "json", setting)
        for name, setting in named.items()
    }
    gone = Entry("gone", "gone", "fake.py", python=tmp_path / "nowhere")
    limit = Entry(
        "limit", "the limit", "fake.py", "checkpoint", Path(sys.executable), "json", agrees=False, scenarios=()
    )
    monkeypatch.setattr(entries_module, "ENTRIES", {**fakes, "gone": gone, "limit": limit})
    monkeypatch.setattr(suite, "SCRIPTS", scripts)
    subject = Prepared("net", tmp_path / "none.pt", ("1.png", "2.png", "3.png"), tmp_path)
    vars(subject).update(
        reference=np.float32([[3, 0]] * 3) + np.float32([[0, 0], [0, 0], [1e-5, 0]]),
        labels=[None] * 3,
        spec=SPEC,
    )
    monkeypatch.setattr(suite, "prepare", lambda named, images: subject)


def test_a_run_from_end_to_end(stage, tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text(
        'contestants = ["right", "wrong", "broken", "gone", "few"]\n'
        'scenarios = ["cold", "single", "offline"]\nrounds = 2\n'
        'subjects = [{ name = "net" }]\n'
    )
    out = tmp_path / "results.json"
    done = CliRunner().invoke(cli, ["run", str(settings), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(out.read_text())
    rows = {(one["contestant"], one["scenario"]): one for one in found["rows"]}
    assert rows["right", "offline"]["agreement"]["agrees"]
    assert rows["wrong", "offline"]["agreement"]["flips"] == 3
    assert [len(one["samples"]) for one in found["rows"] if one["contestant"] == "right"] == [2, 2, 2]
    assert "no such thing" in rows["broken", "cold"]["failure"]
    assert "answered 1 of 3 images" in rows["few", "offline"]["failure"]
    assert "nowhere" in found["absent"]["gone"]
    assert found["absent"]["the limit"] == "runs in none of these settings"
    assert all(one["first"] > 0 for one in rows["right", "cold"]["samples"])
    assert len(rows["right", "single"]["samples"][0]["latencies"]) == 3
    worse = copy.deepcopy(found)
    next(one for one in worse["rows"] if one["contestant"] == "right")["agreement"]["agrees"] = False
    (tmp_path / "worse.json").write_text(json.dumps(worse))
    told = CliRunner().invoke(cli, ["compare", str(out), str(tmp_path / "worse.json")]).output
    assert "right: agrees was True, is False, WORSE" in told
    assert "No change" in CliRunner().invoke(cli, ["compare", str(out), str(out)]).output


def test_the_drawn_corpus_is_the_same_everywhere(tmp_path):
    from benchmarks.corpus import corpus

    first = corpus(tmp_path / "a", "cells", 3)
    again = corpus(tmp_path / "b", "cells", 3)
    assert [path.read_bytes() for path in sorted(first.iterdir())] == [
        path.read_bytes() for path in sorted(again.iterdir())
    ]
    assert len(list(first.iterdir())) == 3


def test_an_untrained_subject_has_every_form(tmp_path, monkeypatch):
    import medinfer

    monkeypatch.setattr(subjects, "FOLDER", tmp_path)
    prepared = subjects.prepare(Subject(name="malaria_cnn"), 4)
    assert len(prepared.images) == 4
    assert prepared.reference.shape == (4, 4)
    model = medinfer.load(prepared.form("pixels"), "cpu")
    logits = [list(one.logits.values()) for one in model.predict_batch(prepared.images)]
    assert verdict(prepared, np.float32(logits), "logits", "fp32")["agrees"]


def test_a_contestant_that_fails_tells_its_reason_and_none_of_this_machines_folders(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text("raise ValueError('no such provider')")
    with pytest.raises(ContestantError, match=r"failing\.py: ended with 1: ValueError: no such provider$") as caught:
        run(Path(sys.executable), script, {})
    assert str(tmp_path) not in caught.value.message
