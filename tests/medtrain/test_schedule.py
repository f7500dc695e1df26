"""Rates, the best epoch and stopping: functions of the history alone."""

import pytest

from medtrain.recipe import Plateau, Training
from medtrain.schedule import best_epoch, is_frozen, is_over, learning_rate, plateau_factor


def history(*rows):
    return [
        {"validation_accuracy": accuracy, "validation_auc": auc, "validation_loss": loss}
        for accuracy, auc, loss in rows
    ]


def test_the_cosine_rate_warms_up_and_falls_to_nothing():
    training = Training(epochs=1, learning_rate=0.1, warmup=0.25)
    rates = [learning_rate(training, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in (24, 25)
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] < 0.001


def test_a_constant_rate_stays():
    training = Training(epochs=1, schedule="constant", learning_rate=0.1)
    assert {learning_rate(training, step, 10) for step in range(10)} == {0.1}


@pytest.mark.parametrize(
    ("accuracies", "factor"),
    [
        ((), 1),
        ((0.5, 0.6, 0.7), 1),
        ((0.5, 0.5), 1),  # one epoch waited
        ((0.5, 0.5, 0.5), 0.3),  # two
        ((0.5, 0.5, 0.5, 0.5), 0.3),  # counting starts again
        ((0.5, 0.5, 0.5, 0.5, 0.5), 0.09),
        ((0.5, 0.5, 0.6, 0.6), 1),
        ((0.5, 0.5005, 0.501), 0.3),  # better by no more than min_delta is not better
    ],
)
def test_on_a_plateau_the_rate_falls(accuracies, factor):
    training = Training(epochs=9, schedule="plateau", plateau=Plateau(factor=0.3, patience=2, min_delta=0.001))
    assert plateau_factor(training, history(*((a, 0, 1) for a in accuracies))) == pytest.approx(factor)
    rate = learning_rate(training, 5, 100, history(*((a, 0, 1) for a in accuracies)))
    assert rate == pytest.approx(1e-3 * factor)


def test_the_best_epoch_is_by_what_the_recipe_selects_then_the_loss_then_the_first():
    seen = history((0.8, 0.7, 0.5), (0.9, 0.6, 0.6), (0.9, 0.9, 0.4), (0.9, 0.9, 0.4), (0.7, 0.8, 0.1))
    assert best_epoch(Training(epochs=9), seen) == 2
    assert best_epoch(Training(epochs=9, select="loss"), seen) == 4
    assert best_epoch(Training(epochs=9, select="auc"), seen[:2]) == 0


def test_a_run_is_over_after_its_epochs_or_its_patience():
    flat = [(0.5, 0.5, 1.0)] * 4
    assert not is_over(Training(epochs=5), history(*flat))
    assert is_over(Training(epochs=4), history(*flat))
    assert is_over(Training(epochs=9, early_stopping=3), history(*flat))
    assert not is_over(Training(epochs=9, early_stopping=4), history(*flat))
    assert not is_over(Training(epochs=9, early_stopping=3), [])


def test_the_first_epochs_may_be_frozen():
    assert [is_frozen(Training(epochs=9, frozen_epochs=2), epoch) for epoch in range(4)] == [True, True, False, False]
