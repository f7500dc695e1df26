"""Limits for abstaining: cases worked by hand, and how often they hold on images drawn alike."""

from __future__ import annotations

import numpy as np
import pytest

from medinfer.agreement import softmax
from medinfer.screening import apply
from medtrain.limits import choose_limits, highest_score, least_probability
from medtrain.recipe import Decisions


def test_the_threshold_is_the_order_statistic_that_promises_the_coverage():
    # Of 19 images, k = floor(20 * 0.1) = 2: between the second smallest and the smallest.
    true = np.arange(1, 20) / 20
    assert least_probability(np.random.default_rng(0).permutation(true), 0.9) == pytest.approx(0.075)
    assert least_probability(true, 0.95) == pytest.approx(0.05 * 0.999)


def test_images_too_few_to_promise_anything_leave_every_class_in_the_set():
    assert least_probability(np.full(8, 0.9), 0.9) == 0.0
    assert least_probability(np.array([]), 0.9) == 0.0


def test_equal_probabilities_stay_on_one_side():
    assert least_probability(np.array([0.2] + [0.7] * 30), 0.9) == pytest.approx(0.45)


def test_the_score_that_most_images_stay_within():
    scores = np.arange(1, 20) * 1.0
    assert highest_score(scores, 0.9) == pytest.approx(18.5)
    assert highest_score(scores, 0.99) == pytest.approx(19.019)


@pytest.mark.parametrize("per_class", [False, True])
def test_the_coverage_is_what_was_wished_on_images_drawn_alike(per_class):
    random = np.random.default_rng(0)
    wanted = Decisions(coverage=0.9, coverage_per_class=per_class)
    covered, rare, within = [], [], []
    for _ in range(300):
        # The third class is rare and hard, so that an average over all would leave it out.
        labels = random.choice(3, size=400, p=[0.45, 0.45, 0.1])
        centres = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 1]])[labels]
        logits = random.normal(centres)
        scores = random.random(400)
        limits = choose_limits(labels[:200], softmax(logits[:200]), scores[:200], wanted)
        found = apply(limits, softmax(logits[200:]), scores[200:])
        hits = found.sets[np.arange(200), labels[200:]]
        covered.append(hits.mean())
        rare.append(hits[labels[200:] == 2].mean())
        within.append(np.mean(found.status != "out_of_distribution"))
    assert 0.895 < np.mean(covered) < 0.93
    assert np.mean(within) == pytest.approx(0.95, abs=0.01)
    assert (np.mean(rare) > 0.89) == per_class


def test_what_a_deployed_file_cannot_tell_apart_no_threshold_parts():
    # About 0.9: in float64 all differ, in float32, as a file answers, they are one number, and a smaller one.
    margins = np.log(9) + np.linspace(0, 1e-8, 200)
    logits = np.stack([margins, np.zeros(200)], axis=1)
    labels = np.zeros(200, int)
    limits = choose_limits(labels, softmax(logits), margins, Decisions())
    found = apply(limits, softmax(logits).astype(np.float32), margins)
    assert found.sets[:, 0].mean() >= 0.9
    assert limits.conformal.images == 200


def test_no_coverage_means_no_limits():
    labels, logits = np.array([0, 1]), np.eye(2)
    assert choose_limits(labels, softmax(logits), labels, Decisions(coverage=0.0)) is None
