"""When not to answer: sets of classes and outliers, as a contract limits them, in every format of the results."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import medinfer
from medinfer.errors import ModelError, SpecError, UsageError
from medinfer.evaluation import abstention, as_text, evaluate
from medinfer.results import record_writer
from medinfer.screening import apply, find_screen
from medinfer.spec import Abstention, Conformal, Graph, OperatingPoint, Outliers, Target

LIMITS = Abstention(
    conformal=Conformal(coverage=0.9, thresholds=(0.58, 0.38, 0.58), images=50),
    outliers=Outliers(threshold=0.9, in_distribution=0.95),
)
SCORED = Graph(extra_outputs=("ood_score",))
MEDINFER = Path(sys.executable).with_name("medinfer")
COLOURS = {"red": (255, 0, 0), "mixed": (110, 120, 0), "purple": (110, 0, 117), "black": (0, 0, 0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, build_model, model_spec):
    """A model that finds dark pictures outlying; pictures of one class, of two, of none, a black one, and none."""
    folder = tmp_path_factory.mktemp("screening")
    build_model(folder / "plain.onnx", model_spec(positive=("green", "blue")))
    build_model(folder / "m.onnx", model_spec(positive=("green", "blue"), abstention=LIMITS, graph=SCORED))
    for name, colour in COLOURS.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((12, 16, 3), colour, np.uint8)[..., ::-1])
    (folder / "zero.png").write_bytes(b"")
    return folder


def run(folder, *words, model="m.onnx"):
    files = [*(f"{name}.png" for name in COLOURS), "zero.png"]
    command = [MEDINFER, *files, "-m", model, "--provider", "cpu", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_model_says_of_each_image_what_may_be_said(folder):
    model = medinfer.load(folder / "m.onnx", "cpu")
    screen = medinfer.find_screen(model.spec)
    red, mixed, purple, black = (screen.decide(model.predict(folder / f"{name}.png")) for name in COLOURS)
    assert (red.status, red.classes) == ("ok", ("red",))
    assert (mixed.status, mixed.classes) == ("uncertain", ("red", "green"))
    assert (purple.status, purple.classes) == ("uncertain", ())
    assert black.status == "out_of_distribution"
    assert black.ood_score == 1
    assert red.ood_score == pytest.approx(2 / 3)


def test_nothing_is_screened_unless_it_is_asked_for(folder):
    done = run(folder, "--format", "jsonl")
    assert all("screening" not in json.loads(line) for line in done.stdout.splitlines())


def test_every_record_has_its_status(folder):
    done = run(folder, "--format", "jsonl", "--abstain")
    assert done.returncode == 3
    *answered, bad = map(json.loads, done.stdout.splitlines())
    assert [one["screening"]["status"] for one in answered] == ["ok", "uncertain", "uncertain", "out_of_distribution"]
    assert [one["screening"]["set"] for one in answered][:3] == [["red"], ["red", "green"], []]
    assert "screening" not in bad


def test_a_table_gains_columns_beside_those_of_a_rule(folder):
    rows = list(csv.DictReader(run(folder, "--format", "csv", "--abstain", "--threshold", "0.5").stdout.splitlines()))
    assert [row["status"] for row in rows] == ["ok", "uncertain", "uncertain", "out_of_distribution", ""]
    assert [row["set"] for row in rows][:3] == ["red", "red|green", ""]
    assert [row["positive"] for row in rows] == ["false", "false", "true", "true", ""]
    shown = run(folder, "--format", "table", "--abstain", "--threshold", "0.5").stdout.splitlines()
    assert shown[0].split() == ["label", "probability", "decision", "screening", "path"]
    assert shown[4].split()[2:4] == ["positive", "out_of_distribution"]


def test_parquet_and_the_header_tell_the_limits(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(folder, "-o", str(tmp_path / "r.parquet"), "--abstain").returncode == 3
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table["set"].to_pylist()[:3] == [["red"], ["red", "green"], []]
    assert table["status"].to_pylist()[-1] is None
    told = json.loads(table.schema.metadata[b"medinfer.results"])
    assert told["screening"]["conformal"]["coverage"] == 0.9
    assert told["decision"] is None


def test_one_file_never_holds_screened_and_unscreened_records(folder, tmp_path):
    output = str(tmp_path / "r.csv")
    run(folder, "-o", output, "--abstain", "--max-errors", "0")
    done = run(folder, "-o", output, "--resume")
    assert done.returncode == 2
    assert "screening was" in done.stderr
    assert run(folder, "-o", output, "--abstain", "--resume").returncode == 3


def test_a_model_without_limits_refuses_to_abstain(folder):
    done = run(folder, "--abstain", model="plain.onnx")
    assert done.returncode == 2
    assert "says nothing of when to abstain" in done.stderr
    assert not done.stdout
    with pytest.raises(UsageError):
        find_screen(medinfer.load(folder / "plain.onnx", "cpu").spec)


def test_limits_are_measured_by_hand():
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.35, 0.3, 0.35]])
    found = abstention(labels, probabilities, np.array([0.1, 0.2, 0.3, 0.95, 0.4]), LIMITS)
    # Sets: {0}, {0, 1}, {0}, {1} but an outlier, none.
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["coverage_per_class"] == [1.0, 0.5, 0.0]
    assert found["set_sizes"] == [1, 3, 1, 0]
    assert found["answered"] == pytest.approx(2 / 5)
    assert found["accuracy_answered"] == pytest.approx(1 / 2)
    assert found["out_of_distribution"] == pytest.approx(1 / 5)
    low, high = found["coverage_interval"]
    assert low < 0.6 < high


def test_an_answer_is_the_most_probable_class_or_none():
    # With thresholds of its own for each class, the one class of a set can be another.
    limits = Abstention(
        conformal=Conformal(coverage=0.9, per_class=True, thresholds=(0.9, 0.05), images=50), outliers=LIMITS.outliers
    )
    screened = apply(limits, np.array([[0.8, 0.2], [0.97, 0.03]]), np.array([0.1, 0.2]))
    assert screened.sets.tolist() == [[False, True], [True, False]]
    assert screened.status.tolist() == ["uncertain", "ok"]


def test_images_of_one_patient_are_no_two_witnesses():
    labels, scores = np.zeros(40, int), np.full(40, 0.1)
    probabilities = np.tile([0.9, 0.1, 0.0], (40, 1))
    alone = abstention(labels, probabilities, scores, LIMITS)
    shared = abstention(labels, probabilities, scores, LIMITS, np.arange(40) // 10)
    for key in ("coverage_interval", "answered_interval", "accuracy_answered_interval"):
        assert shared[key][0] < alone[key][0] - 0.2


def test_a_set_in_a_table_can_be_taken_apart_again(model_spec):
    stream = io.StringIO()
    write = record_writer("csv", stream, ("a|b", "c\\"), ["screening"])
    screening = {"status": "uncertain", "set": ["a|b", "c\\"], "ood_score": 0.5}
    write({"path": "x", "label": "c", "probability": 1.0, "probabilities": {"c": 1.0}, "screening": screening})
    cell = list(csv.reader(stream.getvalue().splitlines()))[1][-2]
    assert cell == "a\\|b|c\\\\"


def test_an_evaluation_tells_of_abstention_where_the_contract_knows_it(model_spec):
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 3, 60), random.normal(size=(60, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = random.random(60)
    point = OperatingPoint(
        name="youden",
        positive=("green",),
        threshold=0.3,
        target=Target(metric="youden"),
        **dict.fromkeys(("sensitivity", "specificity"), 0.5),
        **dict.fromkeys(("sensitivity_interval", "specificity_interval"), (0, 1)),
    )
    spec = model_spec(abstention=LIMITS, graph=None, positive=("green",), operating_points=(point,))
    told = evaluate(labels, probabilities, spec, scores=scores)
    assert told["abstention"]["out_of_distribution"] == np.mean(scores > LIMITS.outliers.threshold)
    assert told["abstention"]["wished"] == 0.9
    assert "abstaining: coverage" in as_text(told)
    assert "abstention" not in evaluate(labels, probabilities, model_spec(), scores=scores)
    assert "abstention" not in evaluate(labels, probabilities, model_spec(abstention=LIMITS, graph=None))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"thresholds": (0.4, 0.4)}, "abstention.conformal.thresholds"),
        ({"thresholds": (0.4, 0.4, 1.2)}, "thresholds[2]"),
        ({"coverage": 1.0}, "coverage"),
        ({"images": 0}, "images"),
    ],
)
def test_limits_that_make_no_sense_are_refused(model_spec, change, path):
    told = LIMITS.to_json()
    told["conformal"] |= change
    with pytest.raises(SpecError) as caught:
        model_spec(abstention=Abstention.from_json(told), graph=SCORED)
    assert path in caught.value.path


def test_limits_need_a_graph_that_gives_the_score(build_model, model_spec, tmp_path):
    with pytest.raises(SpecError, match="ood_score"):
        model_spec(abstention=LIMITS)
    spec = model_spec(abstention=LIMITS, graph=SCORED)
    with pytest.raises(ModelError, match="ood_score"):
        medinfer.load(build_model(tmp_path / "m.onnx", model_spec(), text=spec.dumps()), "cpu")


@pytest.mark.parametrize(("axes", "keepdims"), [([0, 1], 0), ([1], 1)], ids=["one of all", "a column"])
def test_a_score_that_is_not_one_number_for_each_image_is_refused(build_model, model_spec, tmp_path, axes, keepdims):
    model = onnx.load(build_model(tmp_path / "m.onnx", model_spec(abstention=LIMITS, graph=SCORED)))
    (mean,) = (node for node in model.graph.node if node.output == ["mean"])
    mean.attribute[0].i = keepdims
    (over,) = (tensor for tensor in model.graph.initializer if tensor.name == "channels")
    over.CopyFrom(onnx.numpy_helper.from_array(np.int64(axes), "channels"))
    model.graph.output[-1].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"'ood_score' is .*, not float"):
        medinfer.load(tmp_path / "m.onnx", "cpu")


def test_a_prediction_has_the_score_of_a_model_that_gives_one(folder):
    image = folder / "purple.png"
    assert medinfer.load(folder / "m.onnx", "cpu").predict(image).ood_score == pytest.approx(1 - 227 / 765, abs=1e-5)
    assert medinfer.load(folder / "plain.onnx", "cpu").predict(image).ood_score is None
