from __future__ import annotations

import json

import numpy as np
import pytest

from medinfer.metrics import as_text, measure

CLASSES = ("well", "ill", "very ill")
# truth and the most probable class of ten images
TRUTH = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
ANSWER = [0, 0, 0, 1, 1, 1, 2, 2, 0, 1]


def certain(answers, classes=3):
    """Probabilities whose highest is at the answer."""
    return (np.eye(classes)[answers] * 0.7 + 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def measured():
    return measure(np.array(TRUTH), certain(ANSWER), CLASSES, ["ill", "very ill"])


def test_the_confusion_matrix_has_the_truth_in_rows_and_the_answers_in_columns(measured):
    assert measured["confusion_matrix"] == [[3, 1, 0], [0, 2, 1], [1, 1, 1]]


def test_accuracy_and_balanced_accuracy_are_those_worked_by_hand(measured):
    assert measured["images"] == 10
    assert measured["accuracy"] == pytest.approx(0.6)
    assert measured["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)


@pytest.mark.parametrize(
    ("name", "precision", "recall", "f1", "support"),
    [("well", 3 / 4, 3 / 4, 3 / 4, 4), ("ill", 2 / 4, 2 / 3, 4 / 7, 3), ("very ill", 1 / 2, 1 / 3, 2 / 5, 3)],
)
def test_each_class_has_the_figures_worked_by_hand(name, precision, recall, f1, support, measured):
    expected = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    found = measured["per_class"][name]
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_sensitivity_and_specificity_are_of_the_positive_classes_together(measured):
    # Of six ill ones five are called ill or very ill; of four well ones three are called well.
    assert measured["sensitivity"] == pytest.approx(5 / 6)
    assert measured["specificity"] == pytest.approx(3 / 4)


def test_without_positive_classes_there_is_no_sensitivity():
    measured = measure(np.array(TRUTH), certain(ANSWER), CLASSES)
    assert "sensitivity" not in measured
    assert "specificity" not in measured


def test_the_macro_auc_is_the_mean_over_the_classes_of_well_ordered_pairs():
    probabilities = np.float64([[0.6, 0.3, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    # well {0.6, 0.3} over {0.5, 0.2, 0.1}: 5 of 6; ill {0.4, 0.5} over {0.3, 0.3, 0.2}: 6 of 6;
    # very ill {0.7} over {0.1, 0.4, 0.1, 0.3}: 4 of 4
    measured = measure(np.array([0, 0, 1, 1, 2]), probabilities, CLASSES)
    assert measured["macro_auc"] == pytest.approx((5 / 6 + 1 + 1) / 3)


def test_equal_probabilities_count_as_half_a_pair():
    measured = measure(np.array([0, 0, 1, 1]), np.full((4, 2), 0.5), ("no", "yes"))
    assert measured["macro_auc"] == 0.5


def test_what_the_images_leave_undefined_is_none_and_the_rest_is_not_spoilt():
    # No image is very ill, and none is called so.
    measured = measure(np.array([0, 0, 1]), certain([0, 1, 1]), CLASSES, ["ill"])
    absent = {key: value for key, value in measured["per_class"]["very ill"].items() if key != "support"}
    assert set(absent.values()) == {None}
    assert measured["per_class"]["very ill"]["support"] == 0
    assert measured["macro_auc"] is None
    assert {f"{key} of very ill" for key in absent} <= set(measured["undefined"])
    assert measured["undefined"]["recall of very ill"] == "no image of very ill"
    assert measured["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert measured["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize(
    ("label", "sensitivity", "specificity"), [(0, None, 1.0), (1, 1.0, None)], ids=["all well", "all ill"]
)
def test_sensitivity_needs_ill_and_specificity_well_images(label, sensitivity, specificity):
    measured = measure(np.array([label, label]), certain([label, label], 2), ("well", "ill"), ["ill"])
    assert (measured["sensitivity"], measured["specificity"]) == (sensitivity, specificity)
    assert measured["macro_auc"] is None


@pytest.mark.parametrize(("labels", "shape"), [([], (0, 3)), ([0, 1], (3, 3)), ([0, 1], (2, 2))])
def test_shapes_that_do_not_fit_are_a_value_error(labels, shape):
    with pytest.raises(ValueError, match="classes"):
        measure(np.array(labels, np.int64), np.full(shape, 0.5), CLASSES)


def test_everything_measured_is_a_json_value(measured):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured


def test_the_table_for_people_shows_every_class_and_a_dash_for_what_is_undefined():
    lines = as_text(measure(np.array([0, 0, 1]), certain([0, 1, 1]), CLASSES, ["ill"])).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:4]] == ["class", *CLASSES]
    assert lines[1].split()[1:] == ["1.0000", "0.5000", "0.6667", "2"]
    assert lines[3].split()[2:] == ["-", "-", "-", "0"]
    assert "macro auc: -" in lines
    assert "sensitivity: 1.0000" in lines


def test_calibration_is_as_worked_by_hand():
    # Confidences 0.9 (right), 0.6 (wrong), 0.6 (right), so the gap in the bin of 0.6 is |1.2 - 1| / 3.
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    measured = measure(np.array([0, 1, 1]), probabilities, ("well", "ill"))
    assert measured["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.6**2 + 2 * 0.4**2) / 3)
    assert measured["nll"] == pytest.approx(-np.log([0.9, 0.4, 0.6]).mean())
    assert measured["ece"] == pytest.approx((0.1 + 0.2) / 3)
    # Two images of one confidence share a bin of equal counts too.
    assert measured["ece_mass"] == pytest.approx((0.1 + 0.2) / 3)


def test_a_probability_of_nothing_for_the_truth_is_no_infinity():
    measured = measure(np.array([1]), np.array([[1.0, 0.0]]), ("well", "ill"))
    assert 80 < measured["nll"] < 90
    json.dumps(measured, allow_nan=False)


def test_averages_over_the_classes_are_those_worked_by_hand(measured):
    assert measured["macro"]["precision"] == pytest.approx((3 / 4 + 2 / 4 + 1 / 2) / 3)
    assert measured["weighted"]["recall"] == pytest.approx(0.6)


def test_average_precision_is_that_of_the_ranking():
    # The ill ones stand at ranks 1 and 3 of 4: (1/1 + 2/3) / 2.
    ill = np.array([0.9, 0.8, 0.7, 0.1])
    measured = measure(np.array([1, 0, 1, 0]), np.column_stack([1 - ill, ill]), ("well", "ill"))
    assert measured["per_class"]["ill"]["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_order_of_the_images_decides_nothing():
    labels = np.repeat([0, 1], 150)
    probabilities = np.tile([0.9, 0.1], (300, 1))
    shuffled = np.random.default_rng(0).permutation(300)
    sorted_, mixed = measure(labels, probabilities, "ab"), measure(labels[shuffled], probabilities[shuffled], "ab")
    assert sorted_["ece_mass"] == pytest.approx(mixed["ece_mass"]) == pytest.approx(0.4)


def test_whatever_is_none_has_a_reason():
    measured = measure(np.zeros(4, int), certain([1, 1, 1, 1]), CLASSES, ["ill"])
    for name, row in measured["per_class"].items():
        assert all(f"{key} of {name}" in measured["undefined"] for key, value in row.items() if value is None)
