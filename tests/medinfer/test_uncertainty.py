"""Intervals: against published values, slow formulas, and simulated samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from medinfer.intervals import bootstrap, delong, known_patients, proportion, wilson
from medinfer.metrics import PER_CLASS, measure
from medinfer.uncertainty import _Resampled, intervals

CLASSES = ("a", "b", "c")


def answers(count, seed=0, classes=3, signal=1.5):
    """Labels, and probabilities that know something of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.normal(size=(count, classes)) + signal * np.eye(classes)[labels]
    powers = np.exp(logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, R. G. (1998): Two-sided confidence intervals for the single proportion, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(trials - successes, trials)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def slow_delong(truth, scores):
    """The formula of the paper, pair by pair."""
    positive, negative = scores[truth], scores[~truth]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    area, m, n = pairs.mean(), len(positive), len(negative)
    return area, pairs.mean(axis=1).var(ddof=1) / m + pairs.mean(axis=0).var(ddof=1) / n


@pytest.mark.parametrize("seed", range(5))
def test_delong_is_the_formula_of_the_paper(seed):
    labels, probabilities = answers(60, seed, classes=2)
    scores = probabilities[:, 1].round(1)  # with ties
    area, interval = delong((labels == 1)[:, None], scores[:, None])
    wanted, variance = slow_delong(labels == 1, scores)
    assert area == pytest.approx(wanted)
    logit = math.log(wanted / (1 - wanted))
    half = 1.959964 * math.sqrt(variance) / (wanted * (1 - wanted))
    ends = [1 / (1 + math.exp(-end)) for end in (logit - half, logit + half)]
    assert (interval.low, interval.high) == pytest.approx(ends)


def test_an_image_that_stands_twice_for_a_patient_is_one_witness():
    labels, probabilities = answers(80)
    truths = labels[:, None] == np.arange(3)
    once = delong(truths, probabilities)[1]
    twice = [np.repeat(values, 2, axis=0) for values in (truths, probabilities)]
    patients = np.repeat(np.arange(80), 2)
    over_patients = delong(*twice, patients)[1]
    assert over_patients.high - over_patients.low == pytest.approx(once.high - once.low, rel=0.05)
    assert over_patients.method == "DeLong, over patients"
    naive = delong(*twice)[1]
    assert naive.high - naive.low < 0.8 * (once.high - once.low)


@pytest.mark.parametrize(
    ("truth", "scores", "patients"),
    [
        ([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], None),  # perfect
        ([1, 0, 0, 0], [0.5, 0.9, 0.2, 0.1], None),  # one positive: how much another would differ is not known
        ([1, 1, 0, 0], [0.9, 0.3, 0.5, 0.1], [0, 0, 1, 1]),  # a patient on either side
        ([1, 1, 0, 0], [0.9, 0.3, 0.5, 0.1], [0, 0, 0, 0]),
    ],
)
def test_a_curve_that_shows_no_chance_has_no_interval(truth, scores, patients):
    groups = None if patients is None else np.array(patients)
    assert delong(np.array(truth, bool)[:, None], np.array(scores)[:, None], groups)[1] is None


def test_patients_of_one_kind_each_are_summed_as_in_the_paper():
    """Obuchowski's formula where no patient stands on both sides, written out."""
    labels, probabilities = answers(60, classes=2)
    patients = np.where(labels == 1, np.arange(60) % 4, 100 + np.arange(60) % 5)
    truth, scores = labels == 1, probabilities[:, 1]
    pairs = scores[truth][:, None] > scores[~truth]
    area, variance = pairs.mean(), 0.0
    for side, values in ((truth, pairs.mean(axis=1)), (~truth, pairs.mean(axis=0))):
        units = np.unique(patients[side])
        sums = [(values - area)[patients[side] == unit].sum() for unit in units]
        variance += len(units) / (len(units) - 1) * np.square(sums).sum() / side.sum() ** 2
    found = delong(truth[:, None], scores[:, None], patients)[1]
    half = 1.959964 * math.sqrt(variance) / (area * (1 - area))
    assert found.high == pytest.approx(1 / (1 + math.exp(-(math.log(area / (1 - area)) + half))))


def test_rates_over_patients_are_never_certain():
    right = np.ones(6, bool)
    all_right = proportion(right, np.array([0, 0, 1, 1, 2, 2]))
    assert (all_right.low, all_right.high) == (wilson(3, 3).low, 1.0)
    one_patient = proportion(np.array([True, False]), np.array([0, 0]))
    assert one_patient.high - one_patient.low > 0.8
    assert proportion(right, np.arange(6)) == wilson(6, 6)
    assert proportion(right[:0]) is None


def test_a_perfect_classifier_has_no_bootstrap_of_certainty():
    labels = np.repeat([0, 1, 2], 7)
    found = intervals(labels, np.eye(3)[labels] * 0.7 + 0.1, CLASSES)
    assert found["balanced_accuracy"] is None
    assert found["accuracy"]["low"] < 0.9


def test_a_thousand_classes_are_measured():
    labels = np.arange(40) % 20
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1000), 40)
    assert intervals(labels, probabilities, [str(i) for i in range(1000)])["accuracy"]["method"] == "Wilson"


@given(st.integers(0, 10_000), st.integers(20, 80))
def test_drawn_once_each_the_images_give_what_is_measured(seed, count):
    labels, probabilities = answers(count, seed)
    probabilities = probabilities.round(2)  # with ties
    measured = measure(labels, probabilities, CLASSES, ["b", "c"])
    resampled = _Resampled(labels, probabilities, 3)
    values = dict(zip(resampled.names, resampled(np.ones((1, count)))[0], strict=True))
    for name, value in values.items():
        if isinstance(name, tuple):
            wanted = measured["per_class"][CLASSES[name[1]]][name[0]]
        elif " " in name:
            mean, key = name.split()
            wanted = measured[mean][key]
        else:
            wanted = measured[name]
        assert np.isnan(value) if wanted is None else value == pytest.approx(wanted), name


def test_intervals_have_the_shape_of_what_is_measured():
    labels, probabilities = answers(90)
    measured, found = measure(labels, probabilities, CLASSES, ["c"]), intervals(labels, probabilities, CLASSES, ["c"])
    plain = {"images", "undefined", "confusion_matrix"}
    assert set(found) == set(measured) - plain
    for name in CLASSES:
        assert set(found["per_class"][name]) == set(measured["per_class"][name]) - {"support"}
    assert found["ece"] is None
    for name in set(found) - {"per_class", "macro", "weighted", "ece", "ece_mass"}:
        assert found[name]["low"] <= measured[name] <= found[name]["high"], name
    assert found["accuracy"]["method"] == found["per_class"]["a"]["recall"]["method"] == "Wilson"
    assert found["macro_auc"]["method"] == "DeLong"
    assert found["brier"]["method"] == "bootstrap"


def test_only_images_of_one_class_leave_nothing_to_be_told_apart():
    found = intervals(np.zeros(20, int), answers(20)[1], CLASSES)
    assert found["per_class"]["a"]["average_precision"] is None
    assert found["per_class"]["a"]["auc"] is None


def test_what_is_undefined_has_no_interval():
    labels, probabilities = answers(30, classes=2)
    found = intervals(labels, np.column_stack([probabilities, np.zeros(30)]), CLASSES)
    assert found["per_class"]["c"] == dict.fromkeys([*PER_CLASS, "auc", "average_precision"])
    assert found["macro_auc"] is None


def test_patients_widen_the_interval_of_an_accuracy():
    labels, probabilities = answers(40)
    patients = np.repeat(np.arange(40), 5)
    labels, probabilities = np.repeat(labels, 5), np.repeat(probabilities, 5, axis=0)
    apart = intervals(labels, probabilities, CLASSES)["accuracy"]
    together = intervals(labels, probabilities, CLASSES, patients=patients)["accuracy"]
    assert together["method"] == "Wilson, effective trials of patients"
    assert together["high"] - together["low"] > 1.7 * (apart["high"] - apart["low"])


@pytest.mark.parametrize(
    ("patients", "known"),
    # An image of unknown patient stands for itself, and takes nothing from the others.
    [(["x", "y", "x"], [0, 1, 0]), (["x", "y", "z"], None), (["x", None, "x"], [0, 1, 0]), (["", "", ""], None)],
)
def test_patients_count_where_they_share_images(patients, known):
    found = known_patients(patients)
    assert known is None if found is None else found.tolist() == known


def test_the_same_images_have_the_same_intervals():
    labels, probabilities = answers(50)
    assert intervals(labels, probabilities, CLASSES) == intervals(labels, probabilities, CLASSES)


def coverage(simulations, count=150):
    """Share of samples whose interval holds the truth, for a Wilson, a DeLong and two bootstrap intervals."""
    labels, probabilities = answers(400_000, seed=1)
    measured = measure(labels, probabilities, CLASSES)
    truth = {name: measured[name] for name in ("accuracy", "macro_auc", "brier", "nll")}
    held = dict.fromkeys(truth, 0)
    for seed in range(simulations):
        found = intervals(*answers(count, seed=1000 + seed), CLASSES)
        for name, value in truth.items():
            held[name] += found[name]["low"] <= value <= found[name]["high"]
    return {name: number / simulations for name, number in held.items()}


def test_intervals_hold_the_truth_as_often_as_they_say():
    # Of 200 samples 95 % +- 3.1 % (two standard errors) hold it.
    assert min(coverage(200).values()) > 0.91


@pytest.mark.slow
def test_intervals_hold_the_truth_in_93_to_97_percent():
    found = coverage(3000)
    print(found)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def test_a_statistic_that_is_rarely_defined_has_no_interval():
    def mostly_nothing(weights):
        return np.where(weights[:, :1] > 2, 1.0, np.nan)

    assert bootstrap(mostly_nothing, np.zeros(10, int)) == [None]
