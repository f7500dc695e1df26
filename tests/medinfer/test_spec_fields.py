from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from medinfer.errors import SpecError
from medinfer.schema import Schema
from medinfer.spec import MAX_SIDE, SPEC_FORMAT, ModelSpec

POINT = {
    "name": "screening",
    "positive": ["ill", "very ill"],
    "threshold": 0.25,
    "comparison": ">=",
    "target": {"metric": "sensitivity", "value": 0.95},
    "sensitivity": 0.96,
    "sensitivity_interval": [0.9, 0.99],
    "specificity": 0.5,
    "specificity_interval": [0.4, 0.6],
}
# Every field of the contract, set; `fit` and `alpha` in the form with fields of their own.
WHOLE = {
    "format": SPEC_FORMAT,
    "name": "brain",
    "classes": ["well", "ill", "very ill"],
    "task": "multiclass",
    "positive": ["ill", "very ill"],
    "input": {
        "color": "rgb",
        "height": 300,
        "width": 280,
        "fit": {"crop": {"resize": 320, "anchor": "center", "rounding": "floor"}},
        "interpolation": "area",
        "depth16": {"rule": "range", "low": 0, "high": 4095},
        "alpha": {"over": [0, 10, 255]},
        "min_side": 32,
        "dicom": {"window": {"percentile": [1.0, 99.5]}, "frame": 2},
        "mean": [0.5, 0.25, 0.125],
        "std": [0.2, 0.3, 0.4],
    },
    "calibration": {"temperature": 1.5},
    "operating_points": [POINT],
    "abstention": {
        "conformal": {"coverage": 0.9, "per_class": True, "thresholds": [0.2, 0.3, 0.4], "images": 50},
        "outliers": {"score": "residual", "threshold": -3.5, "in_distribution": 0.95},
    },
    "provenance": {
        "recipe": "brain",
        "data_sha256": "ab",
        "created": "2024-05-06T07:08:09Z",
        "versions": {"medonnx": "0.1.0"},
        "checkpoint_sha256": "cd",
        "quantization": {
            "calibrator": "percentile",
            "images": 256,
            "images_sha256": "01",
            "in_float": ["node_Conv_1", "node_linear"],
        },
    },
    "graph": {"input": "pixels", "batch": 1, "precision": "fp32", "extra_outputs": ["features", "ood_score"]},
    "size": {"parameters": 11178051, "macs": 1824035328},
    "agreement": {
        "images": "data",
        "images_sha256": "ef",
        "unusable": 2,
        "batches": [1, 3],
        "provider": "cpu",
        "precision": "fp32",
        "differences": {
            "count": 7,
            "logit_spread": 8.0,
            "tolerance": 8e-4,
            "max_logit": 1e-6,
            "mean_logit": 1e-7,
            "max_probability": 1e-8,
            "label_flips": 0,
            "ties": [1, 2],
        },
        "battery": {
            "count": 2,
            "logit_spread": 8.0,
            "tolerance": 8e-4,
            "max_logit": 1e-6,
            "mean_logit": 1e-7,
            "max_probability": 1e-8,
            "label_flips": 0,
            "ties": [1, 2],
        },
        "operating_point_flips": {"screening": 1},
        "status_flips": 2,
        "max_ood_score": 1e-6,
        "accuracy": {"checkpoint": 0.9, "file": 0.9},
        "macro_auc": {"checkpoint": 0.95, "file": 0.95},
        "macro_auc_loss_interval": [-0.002, 0.003],
    },
    "golden": [
        {
            "image": "QUJD",
            "tensor": "QUJD",
            "logits": [1.0, -2.0, 0.5],
            "ood_score": 0.25,
            "own_logits": [1.1, -2.1, 0.4],
            "own_ood_score": 0.26,
        }
    ],
}
PAD = {"pad": {"value": 114, "anchor": "top_left"}}
FORMS = [("input.fit", PAD), ("input.fit", "stretch"), ("input.alpha", "drop"), ("input.dicom.window", "file")]
FORMS += [("input.dicom.window", "minmax"), ("input.dicom.window", [40.0, 400.0])]


def steps(path):
    """`golden[0].logits` -> ["golden", 0, "logits"]."""
    words = path.replace("[", ".[").split(".")
    return [int(word[1:-1]) if word.startswith("[") else word for word in words if word]


def changed(path, value):
    """Return WHOLE with one value replaced or added."""
    data = copy.deepcopy(WHOLE)
    if path.startswith("input.fit.pad"):
        data["input"]["fit"] = copy.deepcopy(PAD)
    *parents, last = steps(path)
    place = data
    for step in parents:
        place = place[step]
    place[last] = value
    return data


def without(path):
    data = changed(path, None)
    *parents, last = steps(path)
    place = data
    for step in parents:
        place = place[step]
    del place[last]
    return data


def load(data):
    return ModelSpec.loads(json.dumps(data))


def refused(text):
    with pytest.raises(SpecError) as caught:
        ModelSpec.loads(text)
    return caught.value


def test_a_contract_with_every_field_set_is_read_and_written_back_unchanged():
    assert json.loads(load(WHOLE).dumps()) == WHOLE


@pytest.mark.parametrize(("path", "value"), FORMS)
def test_the_other_forms_of_a_field_are_read_and_written_back_unchanged(path, value):
    data = changed(path, value)
    assert json.loads(load(data).dumps()) == data


CHOICES = {
    "input.color": ["rgb", "gray"],
    "input.interpolation": ["linear", "area", "cubic"],
    "input.fit.pad.anchor": ["center", "top_left"],
    "graph.input": ["pixels", "float", "image"],
    "graph.batch": [1, 1024],
    "graph.precision": ["fp32", "fp16", "int8"],
    "agreement.images": ["synthetic", "data"],
    "provenance.quantization.calibrator": ["minmax", "percentile", "entropy"],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in CHOICES.items() for value in values])
def test_each_value_of_a_closed_field_is_accepted(path, value):
    data = changed(path, value)
    if value == "gray":
        data["input"].update(mean=[0.5], std=[0.2])
    assert json.loads(load(data).dumps()) == data


def test_fields_that_only_an_export_knows_may_be_missing():
    data = {key: value for key, value in WHOLE.items() if key not in ("graph", "size", "agreement", "golden")}
    spec = load(data)
    assert spec.graph is spec.size is spec.agreement is spec.golden is None
    assert json.loads(spec.dumps()) == data


# path -> bad values; the error must name that very path.
BAD = {
    "format": [0, -1, "1", 1.0, True],
    "name": ["", 5, ["x"]],
    "classes": [[], ["one"], ["a", "a", "b"], ["a", "", "b"], "abc", {"a": 1}],
    "classes[1]": [1, None, ["ill"]],
    "task": ["binary", "multilabel", "", 1, ["multiclass"]],
    "positive": [["unknown"], ["ill", "ill"], ["well", "ill", "very ill"], "ill", {"ill": 1}],
    "positive[0]": [0],
    "input": [[], "rgb", 3],
    "input.color": ["bgr", "RGB", "", 1, ["rgb"]],
    "input.height": [0, -1, MAX_SIDE + 1, 300.0, "300", True, None],
    "input.width": [0, -1, MAX_SIDE + 1, 280.5, [280]],
    "input.fit": ["squash", {}, {"squash": {}}, 1, ["crop"]],
    "input.fit.crop": [5, [320], "center"],
    "input.fit.crop.resize": [299, 0, MAX_SIDE + 1, 320.0, "320"],
    "input.fit.crop.anchor": ["top_left", 0],
    "input.fit.crop.rounding": ["ceil", "round", 1],
    "input.fit.pad": [5, [0], "center"],
    "input.fit.pad.value": [-1, 256, 0.5, [0, 0, 0]],
    "input.fit.pad.anchor": ["bottom", 1],
    "input.interpolation": ["nearest", "lanczos", "", 2],
    "input.depth16": ["high_byte", 8, []],
    "input.depth16.rule": ["high_byte", "low_byte", 1],  # high_byte takes no low and high
    "input.depth16.low": [-1, 4095, 5000, 0.5, "0", True],
    "input.depth16.high": [1.5, "4095", False],
    "input.alpha": ["keep", [0, 0, 0], {}, True],
    "input.alpha.over": [[0, 0], [0, 0, 0, 0], [0, 0, 256], [-1, 0, 0], 0],
    "input.alpha.over[2]": [0.5, "0", None],
    "input.min_side": [0, -5, MAX_SIDE + 1, 1.0],
    "input.dicom": ["file", []],
    "input.dicom.window": ["auto", [40], [40, 400, 1], [40, 0.5], [40, -400], 40, {}, {"other": [1, 99]}],
    "input.dicom.window.percentile": [[1], [1, 2, 3], [99, 1], [5, 5], [-1, 50], [1, 101], 5],
    "input.dicom.window.percentile[0]": ["1", None],
    "input.dicom.frame": [-1, 0.0, "0"],
    "input.mean": [[0.5], [0.5] * 4, 0.5, "0.5"],
    "input.mean[1]": ["0.5", None, True, -0.1, 1.1, 127.5],
    "input.std": [[0.2], [0.2] * 4, 0.2],
    "input.std[2]": [0, 0.0, -0.1, "0.4"],
    "calibration": [1.5, [1.5]],
    "calibration.temperature": [0, -1.0, "1", True],
    "operating_points": [{}, 1],
    "operating_points[0]": [1, "screening"],
    "operating_points[0].name": ["", 1],
    "operating_points[0].positive": [[], ["unknown"], ["ill", "ill"], ["well", "ill", "very ill"], "ill"],
    "operating_points[0].positive[1]": [2],
    "operating_points[0].threshold": [-0.1, 1.1, "0.5", None],
    "operating_points[0].comparison": [">", "<=", 1],
    "operating_points[0].target": ["youden", 0.95],
    "operating_points[0].target.metric": ["f1", 1],
    "operating_points[0].target.value": [0, -0.5, 1.5, "0.95"],
    "operating_points[0].sensitivity": [-0.1, 1.1, "1"],
    "operating_points[0].sensitivity_interval": [[0.9, 0.1], [-0.1, 0.5], [0.5, 1.1], [0.5], 0.5],
    "operating_points[0].sensitivity_interval[0]": ["0"],
    "operating_points[0].specificity": [-0.1, 1.1, "1"],
    "operating_points[0].specificity_interval": [[0.9, 0.1], [-0.1, 0.5], [0.5, 1.1], [0.1, 0.2, 0.3]],
    "operating_points[0].specificity_interval[1]": [None],
    "abstention": [0.9, []],
    "abstention.conformal": [0.9, [0.9]],
    "abstention.conformal.coverage": [0, 1, 1.5, "0.9", True],
    "abstention.conformal.per_class": [1, "true"],
    "abstention.conformal.thresholds": [[0.2, 0.3], [0.2] * 4, 0.2],
    "abstention.conformal.thresholds[1]": [-0.1, 1.1, "0.3", None],
    "abstention.conformal.images": [0, -1, 1.5, "50"],
    "abstention.outliers": ["residual", []],
    "abstention.outliers.score": ["energy", 1],
    "abstention.outliers.threshold": ["1", None, True],
    "abstention.outliers.in_distribution": [0, 1, 1.5, "0.95"],
    "provenance": ["recipe", []],
    "provenance.recipe": [1],
    "provenance.data_sha256": [1],
    "provenance.created": [20240506],
    "provenance.versions": [[], "0.1.0"],
    "provenance.versions.medonnx": [0.1, None],
    "provenance.checkpoint_sha256": [1],
    "provenance.quantization": ["minmax", []],
    "provenance.quantization.calibrator": ["MinMax", 1],
    "provenance.quantization.images": [1.5, "256"],
    "provenance.quantization.images_sha256": [1],
    "provenance.quantization.in_float": ["node", 1],
    "provenance.quantization.in_float[1]": [1],
    "graph": ["pixels", []],
    "graph.input": ["tensor", 1],
    "graph.batch": [0, 1025, "1", 1.0],
    "graph.precision": ["fp64", 32],
    "graph.extra_outputs": ["features", {}],
    "graph.extra_outputs[0]": [1],
    "size": [1, []],
    "size.parameters": ["1", 1.5],
    "size.macs": ["1", 1.5],
    "agreement": ["ok", []],
    "agreement.images": ["real", 1],
    "agreement.images_sha256": [1],
    "agreement.unusable": [0.5, "1"],
    "agreement.batches": [1, "1"],
    "agreement.batches[1]": [3.0],
    "agreement.provider": [1],
    "agreement.precision": [32],
    **{f"agreement.{part}": ["ok", []] for part in ("differences", "battery", "accuracy", "macro_auc")},
    **{
        f"agreement.{part}.{name}": bad
        for part in ("differences", "battery")
        for name, bad in {
            "count": [7.0, "7"],
            "logit_spread": ["8"],
            "tolerance": ["8e-4"],
            "max_logit": [True],
            "mean_logit": [[]],
            "max_probability": ["0"],
            "label_flips": [0.0],
            "ties": [1, "1"],
            "ties[0]": [1.0],
        }.items()
    },
    "agreement.operating_point_flips": [[], 1],
    "agreement.operating_point_flips.screening": [0.5, "1"],
    "agreement.status_flips": [0.5, "1"],
    "agreement.max_ood_score": ["1", True],
    "agreement.macro_auc_loss_interval": [[0.1], 0.1, "0"],
    "agreement.macro_auc_loss_interval[1]": ["0.1"],
    **{
        f"agreement.{part}.{side}": ["1", None] for part in ("accuracy", "macro_auc") for side in ("checkpoint", "file")
    },
    "golden": [{}, "QUJD"],
    "golden[0]": ["QUJD", []],
    "golden[0].image": [1],
    "golden[0].tensor": [None],
    "golden[0].logits": [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "1"],
    "golden[0].logits[2]": ["0.5", False],
    "golden[0].ood_score": ["0.5", True],
    "golden[0].own_logits": [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "1"],
    "golden[0].own_logits[2]": ["0.5", False],
    "golden[0].own_ood_score": ["0.5", True],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_the_path_of_its_field(path, value):
    error = refused(json.dumps(changed(path, value)))
    assert error.path == path
    assert str(error).startswith(f"{path}: ")
    assert error.problem


def nodes(value, path=""):
    """Yield the path and value of everything in a JSON document."""
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        yield from nodes(value[0], f"{path}[0]")


DOCUMENT = [*nodes(WHOLE), *nodes(PAD["pad"], "input.fit.pad")]
# Objects whose keys are names.
OPEN = ("provenance.versions", "agreement.operating_point_flips")
OBJECTS = [path for path, value in DOCUMENT if isinstance(value, dict) and path not in OPEN]
NAMED = {path for path, _ in DOCUMENT if path and not path.endswith("]")}


def test_the_table_of_bad_values_covers_every_field():
    assert not NAMED - set(BAD)


def test_the_whole_document_sets_every_field_of_every_class():
    kinds = [kind for kind in Schema.__subclasses__() if kind.__module__ in ("medinfer.spec", "medinfer.choices")]
    assert ModelSpec in kinds
    used = [set(value) for _, value in [*DOCUMENT, ("", PAD)] if isinstance(value, dict)]
    missing = [kind.__name__ for kind in kinds if {field.name for field in dataclasses.fields(kind)} not in used]
    assert missing == []


@pytest.mark.parametrize("path", OBJECTS)
def test_an_unknown_key_is_refused_at_every_level(path):
    added = f"{path}.surprise".removeprefix(".")
    error = refused(json.dumps(changed(added, 1)))
    assert error.path == added
    assert "unknown" in error.problem
    assert error.hint.startswith("Known here: ")


REQUIRED = ["name", "classes", "task", "input", "input.height", "input.width", "input.mean", "input.std"]
REQUIRED += ["input.fit.crop.resize", "input.alpha.over", "format"]
REQUIRED += [f"operating_points[0].{key}" for key in POINT if key != "comparison"] + [
    "operating_points[0].target.metric"
]
OPTIONAL = ("unusable", "operating_point_flips", "status_flips", "max_ood_score", "accuracy", "macro_auc")
OPTIONAL += ("macro_auc_loss_interval", "tolerance", "ood_score", "own_logits", "own_ood_score")
REQUIRED += [f"abstention.{key}" for key in ("conformal", "outliers", "outliers.threshold", "outliers.in_distribution")]
REQUIRED += [f"abstention.conformal.{key}" for key in ("coverage", "thresholds", "images")]
REQUIRED += [f"agreement.{key}" for key in WHOLE["agreement"] if key not in OPTIONAL]
REQUIRED += [f"provenance.quantization.{key}" for key in ("calibrator", "images", "images_sha256")]
for part in ("agreement.differences", "agreement.battery", "golden[0]"):
    side, _, name = part.partition(".")
    fields = WHOLE["golden"][0] if part == "golden[0]" else WHOLE[side][name]
    REQUIRED += [f"{part}.{key}" for key in fields if key not in OPTIONAL]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_field_is_named(path):
    # An empty `over` or `crop` no longer says which form is meant, so there the field itself is named.
    expected = {"input.alpha.over": "input.alpha"}.get(path, path)
    assert refused(json.dumps(without(path))).path == expected
