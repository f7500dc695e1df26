from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from medinfer import agreement
from medinfer.agreement import LEAST_SPREAD, TOLERANCES, softmax

# Two classes, two images; the reference is clear on both, and a logit ranges over 6.
CLEAR = np.float32([[4, -4], [-2, 2]])


def compare(reference, observed, probabilities=None, *, temperature=1.0, **options):
    """Compare answers whose probabilities are what their logits say, unless others are given."""
    probabilities = softmax(observed, temperature) if probabilities is None else probabilities
    return agreement.compare(reference, observed, probabilities, temperature=temperature, **options)


def moved(reference, amount, image=0, label=0):
    observed = reference.copy()
    observed[image, label] += amount
    return observed


@pytest.mark.parametrize(
    ("precision", "scale", "tolerance"),
    [
        ("fp32", 0.1, 1e-4),  # a spread under 1 does not shrink it
        ("fp32", 1.0, 6e-4),
        ("fp32", 10.0, 6e-3),
        ("tf32", 0.1, 1e-2),
        ("tf32", 10.0, 1e-2),
        ("fp16", 0.1, 2e-2),
        ("fp16", 10.0, 2e-2),
    ],
)
def test_the_tolerance_is_that_of_the_table(precision, scale, tolerance):
    reference = CLEAR * np.float32(scale)
    found = compare(reference, reference, precision=precision)
    assert found.spread == pytest.approx(6 * scale)
    assert found.tolerance == pytest.approx(tolerance)
    assert compare(reference, moved(reference, 0.9 * tolerance), precision=precision).agrees
    assert not compare(reference, moved(reference, -1.1 * tolerance), precision=precision).agrees


def test_the_table_names_each_precision_and_int8_alone_is_not_judged_by_its_logits():
    assert set(TOLERANCES) == {"fp32", "tf32", "fp16", "bf16", "int8"}
    assert [name for name, (tolerance, _) in TOLERANCES.items() if np.isinf(tolerance)] == ["int8"]


def test_equal_logits_agree_without_any_difference():
    found = compare(CLEAR, CLEAR.copy())
    assert found.agrees
    assert found.is_telling
    assert (found.max_difference, found.mean_difference, found.max_probability_difference) == (0, 0, 0)
    assert found.flips == found.ties == ()


def test_differences_are_those_worked_by_hand():
    reference, observed = np.float32([[0, 0], [1, 0]]), np.float32([[0.5, 0], [1, -0.25]])
    found = compare(reference, observed)
    assert found.max_difference == 0.5
    assert found.mean_difference == 0.75 / 4
    # 1 / (1 + exp(-0.5)) - 1 / 2 = 0.1225, 1 / (1 + exp(-1.25)) - 1 / (1 + exp(-1)) = 0.0462
    assert found.max_probability_difference == pytest.approx(0.12245933)
    cooled = compare(reference, observed, temperature=0.5)
    assert cooled.max_probability_difference == pytest.approx(0.23105858)


def test_the_spread_is_the_widest_range_of_one_logit_over_the_images_and_not_within_an_image():
    assert compare(np.float32([[100, 0], [101, 3]]), np.float32([[100, 0], [101, 3]])).spread == 3


# The reference spreads by 1, so the tolerance is 1e-4: clear means over 2e-4 apart.
@pytest.mark.parametrize(
    ("margin", "flips", "ties"),
    [(3e-4, (1,), ()), (1.5e-4, (), (1,)), (0.0, (), (1,))],
    ids=["clear", "close", "equal"],
)
def test_a_changed_label_is_a_flip_where_the_reference_was_clear_and_a_tie_where_not(margin, flips, ties):
    reference = np.float32([[1, 0, -1], [margin, 0, -1], [0, 1, -1]])
    observed = moved(reference, 1e-3, image=1, label=1)
    found = compare(reference, observed)
    assert found.tolerance == pytest.approx(1e-4)
    assert (found.flips, found.ties) == (flips, ties)


def test_a_flip_is_disagreement_whatever_the_differences():
    sound = compare(CLEAR, CLEAR)
    assert sound.agrees
    assert not dataclasses.replace(sound, flips=(1,)).agrees
    assert dataclasses.replace(sound, ties=(1,)).agrees


def test_a_tie_within_the_tolerance_is_no_disagreement():
    reference, observed = np.float32([[0.0001, 0], [-3, 3]]), np.float32([[0, 0.0001], [-3, 3]])
    found = compare(reference, observed)
    assert found.ties == (0,)
    assert found.agrees


@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "observed", "both"])
def test_what_is_no_number_never_agrees(side, value, precision):
    bad = CLEAR.copy()
    bad[1, 0] = value
    reference, observed = (bad if side in (name, "both") else CLEAR for name in ("reference", "observed"))
    with np.errstate(invalid="ignore"):
        found = compare(reference, observed, precision=precision)
    assert not found.agrees
    assert found.max_difference > 1e38


@pytest.mark.parametrize(("spread", "telling"), [(0.0, False), (0.04, False), (0.06, True)])
def test_logits_that_hardly_vary_over_the_images_tell_nothing(spread, telling):
    assert LEAST_SPREAD == 0.05
    reference = np.float32([[5, -5], [5 + spread, -5]])
    assert compare(reference, reference).is_telling is telling


@pytest.mark.parametrize(
    ("reference", "observed"),
    [((2, 3), (2, 2)), ((2, 3), (3, 3)), ((0, 3), (0, 3)), ((3,), (3,))],
)
def test_logits_that_cannot_be_compared_are_a_value_error(reference, observed):
    reference, observed = np.zeros(reference, np.float32), np.zeros(observed, np.float32)
    with pytest.raises(ValueError, match=r"answers of shapes|no images"):
        agreement.compare(reference, observed, observed)


def test_right_logits_with_wrong_probabilities_do_not_agree():
    shares = softmax(CLEAR)
    assert compare(CLEAR, CLEAR, shares).agrees
    swapped = compare(CLEAR, CLEAR, shares[:, ::-1])
    assert swapped.max_difference == 0
    assert swapped.flips == (0, 1)
    assert not compare(CLEAR, CLEAR, softmax(CLEAR, 1.1)).agrees  # a calibration that was left out
    assert not compare(CLEAR, CLEAR, np.full_like(shares, np.nan)).agrees


@given(st.data())
def test_logits_within_their_tolerance_never_fail_by_their_probabilities(data):
    reference = data.draw(arrays.arrays(np.float64, (3, 3), elements=st.floats(-20, 20)))
    temperature = data.draw(st.floats(0.2, 5))
    tolerance = compare(reference, reference, temperature=temperature).tolerance
    observed = reference + tolerance * data.draw(arrays.arrays(np.float64, (3, 3), elements=st.floats(-1, 1)))
    found = compare(reference, observed, temperature=temperature)
    assert found.max_probability_difference <= found.probability_tolerance


LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-1e3, 1e3, width=32))


@given(logits=LOGITS, temperature=st.floats(0.1, 10))
def test_softmax_is_a_distribution_that_keeps_the_order(logits, temperature):
    shares = softmax(logits, temperature)
    assert shares.shape == logits.shape
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (np.take_along_axis(shares, logits.argmax(axis=1)[:, None], 1)[:, 0] == shares.max(axis=1)).all()
    np.testing.assert_allclose(softmax(logits.astype(np.float64) + 7, temperature), shares, atol=1e-9)


def test_softmax_is_that_worked_by_hand():
    np.testing.assert_allclose(softmax(np.float32([[np.log(1), np.log(3)]])), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(softmax(np.float32([[0, 2 * np.log(3)]]), 2.0), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(softmax(np.float32([[1000, 0]])), [[1, 0]])
