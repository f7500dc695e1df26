"""Yes or no by a threshold: the rule of a contract or one's own, in every format of the results."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import medinfer
from medinfer.decision import find_rule
from medinfer.errors import UsageError
from medinfer.spec import OperatingPoint, Target

SHARE = {"sensitivity": 0.9, "sensitivity_interval": (0.8, 1.0), "specificity": 0.7, "specificity_interval": (0.5, 0.9)}
POINT = OperatingPoint(
    name="sensitivity-95",
    positive=("green", "blue"),
    threshold=0.3,
    target=Target(metric="sensitivity", value=0.95),
    **SHARE,
)
MEDINFER = Path(sys.executable).with_name("medinfer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, build_model, model_spec):
    """A model with an operating point, and pictures of red, green, a mixture, and one that is none."""
    folder = tmp_path_factory.mktemp("decisions")
    build_model(folder / "m.onnx", model_spec(positive=("green", "blue"), operating_points=(POINT,)))
    build_model(folder / "plain.onnx", model_spec())
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0), "mixed": (110, 120, 0)}.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((12, 16, 3), colour, np.uint8)[..., ::-1])
    (folder / "zero.png").write_bytes(b"")
    return folder


def run(folder, *words, model="m.onnx"):
    command = [MEDINFER, "red.png", "green.png", "mixed.png", "zero.png", "-m", model, "--provider", "cpu", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_rule_says_positive_from_its_threshold_on(folder):
    model = medinfer.load(folder / "m.onnx", "cpu")
    seen = model.predict(folder / "mixed.png")
    score = seen.probabilities["green"] + seen.probabilities["blue"]
    assert 0.3 < score < 0.9
    decision = find_rule(model.spec, "sensitivity-95").decide(seen)
    assert (decision.rule, decision.probability, decision.positive) == ("sensitivity-95", pytest.approx(score), True)
    assert find_rule(model.spec, threshold=score).decide(seen).positive
    assert not find_rule(model.spec, threshold=score + 1e-6).decide(seen).positive
    assert find_rule(model.spec) is None


def test_every_record_says_which_rule_decided(folder):
    done = run(folder, "--format", "jsonl", "--operating-point", "sensitivity-95")
    assert done.returncode == 3
    red, green, mixed, bad = map(json.loads, done.stdout.splitlines())
    assert [one["decision"]["positive"] for one in (red, green, mixed)] == [False, True, True]
    assert {one["decision"]["rule"] for one in (red, green, mixed)} == {"sensitivity-95"}
    assert mixed["decision"]["p_positive"] == pytest.approx(1 - mixed["probabilities"]["red"], abs=2e-6)
    assert "decision" not in bad


def test_a_table_gains_columns_only_where_something_is_decided(folder):
    plain = run(folder, "--format", "csv").stdout.splitlines()
    decided = run(folder, "--format", "csv", "--threshold", "0.999").stdout.splitlines()
    assert decided[0] == plain[0] + ",rule,p_positive,positive"
    rows = list(csv.DictReader(decided))
    assert [row["positive"] for row in rows] == ["false", "true", "false", ""]
    assert rows[0]["rule"] == "threshold 0.999"
    assert "positive" in run(folder, "--format", "table", "--threshold", "0.5").stdout


def test_parquet_and_the_header_tell_the_rule(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(folder, "-o", str(tmp_path / "r.parquet"), "--operating-point", "sensitivity-95").returncode == 3
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table["positive"].to_pylist() == [False, True, True, None]
    told = json.loads(table.schema.metadata[b"medinfer.results"])
    assert told["decision"] == {"name": "sensitivity-95", "positive": ["green", "blue"], "threshold": 0.3}


def test_one_file_never_holds_the_decisions_of_two_rules(folder, tmp_path):
    journal = tmp_path / "r.csv.part"
    output = str(tmp_path / "r.csv")
    run(folder, "-o", output, "--threshold", "0.5", "--max-errors", "0")
    assert journal.exists()
    done = run(folder, "-o", output, "--threshold", "0.6", "--resume")
    assert done.returncode == 2
    assert "decision was" in done.stderr
    assert run(folder, "-o", output, "--threshold", "0.5", "--resume").returncode == 3


@pytest.mark.parametrize(
    ("words", "model", "told"),
    [
        (["--operating-point", "youden"], "m.onnx", "There is sensitivity-95"),
        (["--operating-point", "youden"], "plain.onnx", "None was stored"),
        (["--threshold", "0.5"], "plain.onnx", "names no positive classes"),
        (["--threshold", "1.5"], "m.onnx", "not within [0, 1]"),
        (["--threshold", "nan"], "m.onnx", "not within [0, 1]"),
        (["--threshold", "0.5", "--operating-point", "sensitivity-95"], "m.onnx", "its own threshold"),
    ],
)
def test_a_rule_that_cannot_be_had_is_a_usage_error(folder, words, model, told):
    done = run(folder, *words, model=model)
    assert done.returncode == 2
    assert told in done.stderr
    assert not done.stdout


def test_a_rule_needs_positive_classes(model_spec):
    with pytest.raises(UsageError):
        find_rule(model_spec(), threshold=0.5)
