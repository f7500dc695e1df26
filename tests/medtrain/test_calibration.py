"""Temperature and thresholds: against cases worked by hand and simulated truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from medinfer.agreement import softmax
from medinfer.intervals import wilson
from medinfer.metrics import measure
from medinfer.spec import Target
from medtrain.calibration import choose_threshold, fit_temperature, operating_point, rates_by_threshold, targets
from medtrain.recipe import Decisions

SENSITIVE, SPECIFIC = (Target(metric=name, value=0.75) for name in ("sensitivity", "specificity"))
YOUDEN = Target(metric="youden")
# p(positive) of eight images; the ill ones are at 0.9, 0.8, 0.5 and 0.2.
SCORES = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1])
ILL = np.array([True, True, False, True, False, False, True, False])


def drawn(temperature, count=20_000, seed=0):
    """Logits whose softmax at a temperature is the truth."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=3, size=(count, 3)).astype(np.float32)
    chances = softmax(logits, temperature).cumsum(axis=1)
    return logits, (random.random((count, 1)) > chances).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_simulated_images_is_found(temperature):
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_mends_probabilities_that_are_too_sure():
    logits, labels = drawn(3.0)
    other, truth = drawn(3.0, seed=1)
    temperature = fit_temperature(logits, labels)
    before, after = (measure(truth, softmax(other, t), "abc") for t in (1.0, temperature))
    assert after["ece"] < 0.3 * before["ece"]
    assert after["nll"] < before["nll"]
    assert after["accuracy"] == before["accuracy"]


def test_images_without_a_mistake_do_not_ask_for_certainty():
    logits = np.float32([[5, 0], [0, 5], [4, 0], [0, 4]] * 5)
    labels = np.array([0, 1] * 10)
    assert 0.5 < fit_temperature(logits, labels) < 3
    assert softmax(logits, fit_temperature(logits, labels)).max() < 0.999


@pytest.mark.parametrize(
    ("target", "threshold"),
    # 3 of 4 ill ones lie at 0.5 and above, the next below is 0.4; 3 of 4 well ones below 0.5, the next above is 0.5.
    [(SENSITIVE, 0.45), (SPECIFIC, 0.45), (YOUDEN, 0.45)],
)
def test_thresholds_lie_between_the_scores_that_they_part(target, threshold):
    assert choose_threshold(ILL, SCORES, target) == pytest.approx(threshold)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=40),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
    st.sampled_from(["sensitivity", "specificity"]),
)
def test_a_target_is_reached_and_no_better_threshold_reaches_it(images, value, metric):
    ill, scores = np.array([one for one, _ in images]), np.array([score / 21 for _, score in images])
    threshold = choose_threshold(ill, scores, Target(metric=metric, value=value))
    if ill.all() or not ill.any():
        assert threshold is None
        return
    assert threshold is not None
    called = scores >= threshold
    mine, other = called[ill].mean(), (~called[~ill]).mean()
    if metric == "specificity":
        mine, other = other, mine
    assert mine >= value - 1e-9
    for rival in np.concatenate([scores, [0.0, 1.1]]):
        told = scores >= rival
        pair = (told[ill].mean(), (~told[~ill]).mean())
        rival_mine, rival_other = pair if metric == "sensitivity" else pair[::-1]
        assert rival_mine < value - 1e-9 or rival_other <= other + 1e-9
    # Rounding in the last digits of float32 decides nothing.
    assert np.abs(scores - threshold).min() > 1e-6 or threshold == 0


def test_an_operating_point_tells_what_it_does_on_the_test_images():
    point = operating_point(SENSITIVE, 0.45, ["ill"], ILL, SCORES)
    assert (point.name, point.sensitivity, point.specificity) == ("sensitivity-75", 0.75, 0.75)
    wanted = wilson(3, 4)
    assert point.sensitivity_interval == (wanted.low, wanted.high)
    assert operating_point(SENSITIVE, 0.45, ["ill"], np.ones(3, bool), SCORES[:3]) is None


def test_patients_widen_the_interval_of_a_rate():
    ill, scores = np.tile(ILL, 20), np.tile(SCORES, 20)
    apart = operating_point(YOUDEN, 0.45, ["ill"], ill, scores)
    together = operating_point(YOUDEN, 0.45, ["ill"], ill, scores, np.arange(160) % 8)
    assert np.ptp(together.sensitivity_interval) > 2 * np.ptp(apart.sensitivity_interval)


def test_rates_of_thresholds():
    sensitivity, specificity = rates_by_threshold(ILL, SCORES, np.array([0.0, 0.45, 0.8, 1.0]))
    assert sensitivity.tolist() == [1, 0.75, 0.5, 0]
    assert specificity.tolist() == [0, 0.75, 1, 1]


def test_a_target_of_nothing_is_none():
    assert [target.metric for target in targets(Decisions(sensitivity=0))] == ["specificity", "youden"]


def test_a_threshold_parts_nothing_that_float32_cannot_tell_apart():
    scores = np.array([0.2, 1 - 3e-9, 1 - 1e-9, 1 - 5e-10])
    ill = np.array([False, False, True, True])
    threshold = choose_threshold(ill, scores, Target(metric="specificity", value=0.9))
    assert threshold is None or (scores.astype(np.float32)[~ill] < threshold).mean() >= 0.9


def test_a_rule_of_the_runtime_decides_as_the_evaluation_counts(model_spec):
    from medinfer.decision import Rule
    from medinfer.evaluation import positives
    from medinfer.prediction import Prediction

    probabilities = np.float32([[0.3, 0.7], [0.7, 0.3]])
    rule = Rule("own", ("b",), 0.7)
    _, scores = positives(np.array([0, 1]), probabilities, ("a", "b"), ("b",))
    decided = [rule.decide(Prediction(None, ("a", "b"), row, row)).positive for row in probabilities]
    assert (scores >= 0.7).tolist() == decided
