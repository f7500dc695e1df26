"""The report: whole in itself, readable by everyone, and true to the figures that it was made from."""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import cv2
import numpy as np
import pytest

from medinfer.spec import ModelSpec, Provenance
from medtrain import charts
from medtrain.dataset import Examples
from medtrain.evaluate import Answers, decide, evaluate
from medtrain.recipe import load
from medtrain.report import Report

HOSTILE = 'tumor <script>alert("x")</script>'
HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "train_accuracy": 1 - 0.4 / epoch,
        "validation_loss": 1.1 / epoch,
        "validation_accuracy": 1 - 0.5 / epoch,
        "validation_auc": 1 - 0.3 / epoch,
    }
    for epoch in (1, 2, 3)
]


class Page(HTMLParser):
    """The tags of a page, with their attributes and the text in them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], Counter()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text[" ".join(data.split())] += 1

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def answers(count, classes, *, seed, patients=None):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    logits = random.normal(2.5 * np.eye(classes)[labels]).astype(np.float32)
    return Answers(labels, logits, random.random(count).astype(np.float32), patients, ("",) * count)


def examples(found, side=16, channels=3):
    colours = np.random.default_rng(0).integers(0, 256, (len(found.labels), 1, 1, channels), dtype=np.uint8)
    images = np.tile(colours, (1, side, side, 1))
    return Examples(images, found.labels, tuple(f"folder/{i}.png" for i in range(len(found.labels))))


def report(classes=("healthy", HOSTILE), *, positive=(HOSTILE,), channels=3, found=None, **changes):
    recipe = load("phantom", ["input.color=gray", "input.mean=[0.5]", "input.std=[0.5]"] if channels == 1 else [])
    spec = ModelSpec(
        name="phantom",
        classes=classes,
        task="binary" if len(classes) == 2 else "multiclass",
        positive=positive,
        input=recipe.input,
        provenance=Provenance(recipe="phantom", versions={"torch": "2.15.0"}),
    )
    test = found or answers(120, len(classes), seed=1)
    spec = decide(spec, answers(150, len(classes), seed=2), test, recipe.decisions)
    counts = {name: dict.fromkeys(classes, 40) for name in ("train", "validation", "test")}
    findings = [{"kind": "shortcut", "severity": "warning", "message": "size tells the label", "count": 3}]
    data = {"images": 120, "counts": counts, "patients": 0, "findings": findings}
    measured = {"test": evaluate(test, spec), "history": HISTORY, "best_epoch": 3, "data": data, **changes}
    pixels = examples(test, channels=channels)
    return Report(spec=spec, recipe=recipe, measured=measured, train=pixels, test=pixels, answers=test)


def written(made, folder):
    made.write(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return written(report(), tmp_path_factory.mktemp("report"))


def test_the_page_asks_the_network_for_nothing(text):
    page = Page(text)
    named = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert named
    assert all(value.startswith(("data:", "#")) for value in named)
    assert not page.all("script")
    assert not re.search(r"url\(|@import|<link", text)
    (policy,) = (one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert len(text) < 5_000_000


def test_every_picture_has_words_and_every_table_says_what_its_cells_are(text):
    page = Page(text)
    assert len(page.all("img")) > 20
    assert all(len(one["alt"]) > 10 for one in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(one.get("scope") in ("col", "row") for one in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]


def test_every_link_leads_somewhere(text):
    page = Page(text)
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {one["href"].removeprefix("#") for one in page.all("a")} <= targets


def test_names_from_the_data_are_text_and_nothing_else(text):
    assert "<script" not in text
    assert HOSTILE in Page(text).text


def test_the_figures_are_those_of_the_metrics(text):
    made = report()
    told = made.measured["test"]
    page = Page(text)
    assert page.text[f"{told['accuracy']:.3f}"] >= 1
    assert f"{told['intervals']['accuracy']['low']:.3f} to {told['intervals']['accuracy']['high']:.3f}" in page.text
    for point in told["operating_points"].values():
        assert f"{point['threshold']:.4f}" in text
    assert f"{told['abstention']['coverage']:.3f}" in text
    assert "size tells the label" in page.text


def test_the_surest_mistakes_come_first(tmp_path):
    made = report()
    probabilities = made.answers.probabilities(made.spec)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != made.answers.labels)
    surest = sorted((float(probabilities[i].max()) for i in wrong), reverse=True)[:12]
    assert len(surest) >= 3
    shown = re.findall(r"\((\d\.\d{3})\), wrong: it is", written(made, tmp_path).split("Test images drawn")[0])
    # Once as the words of the picture, once as its caption.
    assert shown[::2] == [f"{value:.3f}" for value in surest]


def test_pictures_are_what_the_network_sees(tmp_path):
    made = report()
    page = Page(written(made, tmp_path))
    first = next(
        one
        for one in page.all("img")
        if one["src"].startswith("data:image/jpeg") and one["alt"] == "training image, healthy"
    )
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(first["src"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(shown.astype(int) - made.train.images[0]).mean() < 10
    assert np.abs(shown[..., ::-1].astype(int) - made.train.images[0]).mean() > 20


def test_a_roc_curve_goes_through_its_points():
    # Falling scores: positive, negative, positive, positive and negative together.
    truth, scores = np.array([True, False, True, True, False]), np.array([0.9, 0.8, 0.7, 0.5, 0.5])
    (curve,) = charts.Sensitivity(truth, scores)(np.ones((1, 5)))
    at = dict(zip(np.round(charts.GRID, 2).tolist(), curve, strict=True))
    assert at[0.0] == pytest.approx(1 / 3)
    assert at[0.5] == pytest.approx(2 / 3)
    assert at[0.75] == pytest.approx(5 / 6)
    assert at[1.0] == 1


def test_a_precision_recall_curve_goes_through_its_points():
    truth, scores = np.array([True, False, True, True, False]), np.array([0.9, 0.8, 0.7, 0.5, 0.5])
    (curve,) = charts.Precision(truth, scores)(np.ones((1, 5)))
    at = dict(zip(np.round(charts.GRID, 2).tolist(), curve, strict=True))
    assert at[0.0] == at[0.33] == 1
    assert at[0.34] == at[0.66] == pytest.approx(2 / 3)
    assert at[0.67] == at[1.0] == pytest.approx(3 / 5)


@pytest.mark.parametrize("kind", [charts.Sensitivity, charts.Precision])
def test_draws_without_a_positive_tell_nothing(kind):
    curve = kind(np.array([True, False, False]), np.array([0.9, 0.5, 0.1]))
    assert np.isnan(curve(np.array([[0.0, 2, 1]]))).all()


def test_words_say_what_a_chart_shows(text):
    made = report()
    (matrix,) = charts.confusion(made.measured["test"]["confusion_matrix"], ("healthy", "tumor"))
    (right, wrong), _ = made.measured["test"]["confusion_matrix"]
    assert f"of {right + wrong} healthy: {right} called healthy, {wrong} called tumor" in matrix.words
    told = made.measured["test"]
    before = told["uncalibrated"]["ece"]
    assert f"without temperature: ECE {before:.3f}; with temperature: ECE {told['ece']:.3f}" in text


def test_the_page_says_where_a_split_leaks(tmp_path):
    made = report()
    data = {**made.measured["data"], "patients": 20}
    clean = written(replace(made, measured={**made.measured, "data": data}), tmp_path)
    assert "Images of one known patient stand on one side" in clean
    data["findings"] = [{"kind": "leakage", "severity": "warning", "message": "12 images leak: allowed", "count": 12}]
    allowed = load("phantom", ["data.on_leak=allow"])
    leaky = written(replace(made, recipe=allowed, measured={**made.measured, "data": data}), tmp_path)
    assert "stand on both sides" in leaky
    assert "stand on one side" not in leaky
    data["findings"] = [{"kind": "leakage", "severity": "warning", "message": "12 images leak: left out", "count": 12}]
    dropping = load("phantom", ["data.on_leak=drop-from-train"])
    mended = written(replace(made, recipe=dropping, measured={**made.measured, "data": data}), tmp_path)
    assert "stand on both sides" not in mended


def test_a_path_of_the_machine_is_not_told(tmp_path):
    made = report()
    recipe = load("phantom", ["network.weights=/home/somebody/weights.pt"])
    page = written(replace(made, recipe=recipe), tmp_path)
    assert "somebody" not in page
    assert "weights.pt" in page


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: report(positive=()), id="no positive class"),
        pytest.param(lambda: report(("a", "b", "c"), positive=("b", "c")), id="three classes"),
        pytest.param(lambda: report(tuple(f"class {i}" for i in range(12)), positive=()), id="twelve classes"),
        pytest.param(lambda: report(channels=1), id="gray"),
        pytest.param(lambda: report(("_x", "stage_$1_$"), positive=("stage_$1_$",)), id="no formula"),
        pytest.param(lambda: report(("正常", "x" * 200), positive=("正常",)), id="letters without a glyph, long names"),
        pytest.param(lambda: report(tuple(f"class {i}" for i in range(40)), positive=()), id="forty classes"),
        pytest.param(
            lambda: report(found=answers(40, 2, seed=1, patients=np.arange(40) // 4)), id="patients with several images"
        ),
        pytest.param(
            lambda: report(found=Answers(np.zeros(9, int), np.float32([[3, 0]] * 9), np.zeros(9), None, ("",) * 9)),
            id="one class",
        ),
        pytest.param(
            lambda: report(
                found=Answers(np.array([0, 1] * 5), np.float32([[9, 0], [0, 9]] * 5), None, None, ("",) * 10)
            ),
            id="no mistake",
        ),
        pytest.param(lambda: report(history=HISTORY[:1], best_epoch=1), id="one epoch"),
    ],
)
def test_a_report_can_be_had_of_every_kind_of_run(made, tmp_path):
    assert "<h2" in written(made(), tmp_path)


def test_the_same_run_writes_the_same_page(text, tmp_path):
    assert written(report(), tmp_path) == text
