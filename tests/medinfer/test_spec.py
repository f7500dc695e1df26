from __future__ import annotations

import contextlib
import json
import string

import pytest
from hypothesis import given, strategies as st

from medinfer.errors import MedonnxError, ModelError, SpecError
from medinfer.spec import (
    MAX_SIDE,
    SPEC_FORMAT,
    Agreement,
    BeforeAfter,
    Calibration,
    Crop,
    CropFit,
    Depth16,
    Dicom,
    Differences,
    GoldenSample,
    Graph,
    InputSpec,
    ModelSpec,
    OperatingPoint,
    Over,
    Pad,
    PadFit,
    PercentileWindow,
    Provenance,
    Target,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
SHARES = st.floats(0, 1)
TEXTS = st.text(max_size=8)
NAMES = st.text(min_size=1, max_size=8)
LEVELS = st.integers(0, 255)
SIDES = st.integers(1, MAX_SIDE)
COUNTS = st.integers(0, 10**9)


def tuples(elements, **sizes):
    return st.lists(elements, **sizes).map(tuple)


RANGES = tuples(st.integers(0, 65535), min_size=2, max_size=2, unique=True).map(sorted)
DEPTHS = st.just(Depth16()) | RANGES.map(lambda ends: Depth16(rule="range", low=ends[0], high=ends[1]))
ALPHAS = st.just("drop") | st.builds(Over, over=st.tuples(LEVELS, LEVELS, LEVELS))
PERCENTS = st.tuples(st.floats(0, 49), st.floats(50, 100))
WINDOWS = st.sampled_from(["file", "minmax"]) | st.tuples(NUMBERS, st.floats(1, 1e6))
WINDOWS |= st.builds(PercentileWindow, percentile=PERCENTS)
DICOMS = st.builds(Dicom, window=WINDOWS, frame=st.integers(0, 999))
PADS = st.builds(PadFit, pad=st.builds(Pad, value=LEVELS, anchor=st.sampled_from(["center", "top_left"])))


@st.composite
def inputs(draw):
    color = draw(st.sampled_from(["rgb", "gray"]))
    channels = {"rgb": 3, "gray": 1}[color]
    height, width = draw(SIDES), draw(SIDES)
    crops = st.integers(max(height, width), MAX_SIDE).map(lambda side: CropFit(crop=Crop(resize=side)))
    return InputSpec(
        color=color,
        height=height,
        width=width,
        fit=draw(st.just("stretch") | crops | PADS),
        interpolation=draw(st.sampled_from(["linear", "area", "cubic"])),
        depth16=draw(DEPTHS),
        alpha=draw(ALPHAS),
        min_side=draw(SIDES),
        dicom=draw(DICOMS),
        mean=draw(tuples(SHARES, min_size=channels, max_size=channels)),
        std=draw(tuples(POSITIVE, min_size=channels, max_size=channels)),
    )


INTERVALS = st.tuples(SHARES, SHARES).map(lambda ends: tuple(sorted(ends)))
SHARE_TARGETS = st.builds(
    Target, metric=st.sampled_from(["sensitivity", "specificity"]), value=st.floats(0, 1, exclude_min=True)
)
TARGETS = st.just(Target(metric="youden")) | SHARE_TARGETS


def points(positives):
    return st.builds(
        OperatingPoint,
        name=NAMES,
        positive=positives,
        threshold=SHARES,
        target=TARGETS,
        sensitivity=SHARES,
        sensitivity_interval=INTERVALS,
        specificity=SHARES,
        specificity_interval=INTERVALS,
    )


PROVENANCES = st.builds(
    Provenance,
    recipe=st.none() | TEXTS,
    data_sha256=st.none() | TEXTS,
    created=st.none() | TEXTS,
    versions=st.dictionaries(TEXTS, TEXTS, max_size=3),
    checkpoint_sha256=st.none() | TEXTS,
)
GRAPHS = st.builds(
    Graph,
    input=st.sampled_from(["pixels", "float"]),
    batch=st.none() | st.integers(1, 1024),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    extra_outputs=tuples(NAMES, max_size=3),
) | st.builds(Graph, input=st.just("image"), batch=st.just(1), extra_outputs=tuples(NAMES, max_size=3))
DIFFERENCES = st.builds(
    Differences,
    count=COUNTS,
    logit_spread=NUMBERS,
    tolerance=NUMBERS,
    max_logit=NUMBERS,
    mean_logit=NUMBERS,
    max_probability=NUMBERS,
    label_flips=COUNTS,
    ties=tuples(COUNTS, max_size=3),
)
PAIRS = st.none() | st.builds(BeforeAfter, checkpoint=SHARES, file=SHARES)
AGREEMENTS = st.builds(
    Agreement,
    images=st.sampled_from(["synthetic", "data"]),
    images_sha256=TEXTS,
    batches=tuples(COUNTS, max_size=3),
    provider=TEXTS,
    precision=TEXTS,
    differences=DIFFERENCES,
    battery=DIFFERENCES,
    operating_point_flips=st.dictionaries(TEXTS, COUNTS, max_size=2),
    accuracy=PAIRS,
    macro_auc=PAIRS,
)


@st.composite
def specs(draw):
    classes = draw(tuples(NAMES, min_size=2, max_size=5, unique=True))
    names = {"elements": st.sampled_from(classes), "max_size": len(classes) - 1, "unique": True}
    samples = st.builds(
        GoldenSample, image=TEXTS, tensor=TEXTS, logits=tuples(NUMBERS, min_size=len(classes), max_size=len(classes))
    )
    return ModelSpec(
        name=draw(NAMES),
        classes=classes,
        task="binary" if len(classes) == 2 else "multiclass",
        positive=draw(tuples(**names)),
        input=draw(inputs()),
        calibration=Calibration(temperature=draw(POSITIVE)),
        operating_points=draw(tuples(points(tuples(**names, min_size=1)), max_size=2)),
        provenance=draw(PROVENANCES),
        graph=draw(st.none() | GRAPHS),
        agreement=draw(st.none() | AGREEMENTS),
        golden=draw(st.none() | tuples(samples, max_size=2)),
    )


def sorts_its_keys(value):
    if isinstance(value, dict):
        return list(value) == sorted(value) and all(map(sorts_its_keys, value.values()))
    return not isinstance(value, list) or all(map(sorts_its_keys, value))


@given(specs())
def test_any_contract_survives_being_written_and_read(spec):
    text = spec.dumps()
    again = ModelSpec.loads(text)
    assert again == spec
    assert again.dumps() == text
    assert text.isascii()
    assert sorts_its_keys(json.loads(text, parse_constant=pytest.fail))


def test_the_text_of_a_contract_is_canonical(model_spec):
    text = model_spec(name="Größe").dumps()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert '"name":"Gr\\u00f6\\u00dfe"' in text


def test_lists_become_tuples_and_integers_in_float_fields_floats(input_spec):
    spec = input_spec(mean=[0, 0, 1], std=[1, 1, 1])
    assert spec.mean == (0.0, 0.0, 1.0)
    assert all(type(value) is float for value in (*spec.mean, *spec.std))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("mean[1]", lambda value, make: make(mean=(0.0, value, 0.0))),
        ("std[0]", lambda value, make: make(std=(value, 1.0, 1.0))),
        ("window[0]", lambda value, make: Dicom(window=(value, 100.0))),
        ("temperature", lambda value, make: Calibration(temperature=value)),
    ],
)
def test_a_number_that_is_not_finite_is_refused_on_construction(path, make, value, input_spec):
    with pytest.raises(SpecError, match="not a finite number") as caught:
        make(value, input_spec)
    assert caught.value.path == path


def test_a_contract_cannot_be_changed_once_made(model_spec):
    with pytest.raises(AttributeError):
        model_spec().name = "other"


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(word, model_spec):
    text = model_spec().dumps().replace('"temperature":1.0', f'"temperature":{word}')
    with pytest.raises(SpecError, match=f"{word} is not JSON"):
        ModelSpec.loads(text)


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400, "1" * 5000], ids=["1e400", "401 digits", "5000 digits"])
def test_a_number_too_large_for_a_float_is_refused(number, model_spec):
    text = model_spec().dumps().replace('"temperature":1.0', f'"temperature":{number}')
    with pytest.raises(SpecError):
        ModelSpec.loads(text)


@pytest.mark.parametrize("pair", ['"name":"tiny"', '"temperature":1.0'])
def test_a_repeated_key_is_refused(pair, model_spec):
    text = model_spec().dumps()
    assert pair in text
    with pytest.raises(SpecError, match="a key is repeated among"):
        ModelSpec.loads(text.replace(pair, f"{pair},{pair}"))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000], ids=["lists", "objects"])
def test_deep_nesting_is_refused(text):
    with pytest.raises(SpecError):
        ModelSpec.loads(text)


@pytest.mark.parametrize("text", ["", "{", "not json", "[]", "3", "null", '"text"', "{}", "\ufeff{}"])
def test_text_that_is_no_contract_is_refused(text):
    with pytest.raises(SpecError):
        ModelSpec.loads(text)


@given(damage=st.text(alphabet=string.printable, max_size=20), data=st.data())
def test_a_damaged_contract_is_refused_or_read_and_nothing_else(damage, data, model_spec):
    text = model_spec().dumps()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    with contextlib.suppress(SpecError):
        ModelSpec.loads(text[:start] + damage + text[end:])


@pytest.mark.parametrize("found", [SPEC_FORMAT + 1, 10**6])
def test_a_newer_format_is_refused_with_the_version_to_upgrade_to(found, model_spec):
    data = model_spec().to_json()
    data["provenance"]["versions"] = {"medonnx": "3.1.4"}
    # What else a newer format may say is not complained of.
    text = json.dumps({**data, "format": found, "brand_new": 1})
    with pytest.raises(SpecError) as caught:
        ModelSpec.loads(text)
    assert caught.value.path == "format"
    assert "pip install -U 'medonnx>=3.1.4'" in caught.value.hint


@pytest.mark.parametrize("provenance", [None, 1, {}, {"versions": 1}, {"versions": {"medonnx": "9" * 99}}])
def test_a_newer_format_that_names_no_version_is_refused_with_a_plain_upgrade(provenance):
    with pytest.raises(SpecError) as caught:
        ModelSpec.loads(json.dumps({"format": 2, "provenance": provenance}))
    assert "pip install -U 'medonnx'" in caught.value.hint


def test_a_hostile_value_is_shortened_in_the_message(model_spec):
    with pytest.raises(SpecError) as caught:
        ModelSpec.loads(json.dumps({**model_spec().to_json(), "task": "x" * 100_000}))
    assert len(str(caught.value)) < 300


def test_a_malformed_contract_is_a_refused_model_with_exit_code_4():
    assert issubclass(SpecError, ModelError)
    assert issubclass(SpecError, MedonnxError)
    assert SpecError.exit_code == 4
