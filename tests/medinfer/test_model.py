from __future__ import annotations

import gc
import json
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import medinfer
from medinfer.errors import ImageError, ModelError, SpecError, UsageError
from medinfer.imaging import preprocess


@pytest.fixture(scope="module")
def model(tiny_model):
    return medinfer.load(tiny_model, "cpu", threads=2)


@pytest.fixture(scope="module")
def pictures(picture):
    """Colour and gray, of many sizes, of both depths."""
    shapes = [(12, 16, 3), (40, 25, 3), (9, 9, 1), (100, 30, 3), (12, 16, 1)]
    arrays = [picture(*shape, seed=seed) for seed in range(4) for shape in shapes]
    return [*arrays, picture(20, 20, 3, dtype=np.uint16), picture(20, 20, 1, dtype=np.uint16)]


def rows(predictions):
    return np.array([[*seen.scores, *seen.raw] for seen in predictions])


def failing(run, kind):
    with pytest.raises(kind) as caught:
        run()
    return caught.value


# answers


def test_an_answer_is_what_numpy_computes_from_the_same_tensor(model, pictures, numpy_logits):
    tensors = np.stack([preprocess(image, model.spec.input) for image in pictures])
    logits = numpy_logits(tensors).astype(float)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    for seen, row, power in zip(model.predict_batch(pictures), logits, powers, strict=True):
        np.testing.assert_allclose(list(seen.logits.values()), row, atol=1e-4)
        np.testing.assert_allclose(list(seen.probabilities.values()), power / power.sum(), atol=1e-5)
        assert seen.label == ("red", "green", "blue")[row.argmax()]
        assert seen.probability == seen.probabilities[seen.label] == max(seen.probabilities.values())


@pytest.mark.parametrize(
    ("color", "label", "logits"),
    [
        ((255, 0, 0), "red", {"red": 24, "green": -12, "blue": -12}),
        ((0, 255, 0), "green", {"red": -10, "green": 22, "blue": -14}),
        ((0, 0, 255), "blue", {"red": -8, "green": -16, "blue": 26}),
    ],
)
def test_a_solid_picture_has_the_label_of_its_colour(color, label, logits, model):
    frame = np.full((30, 30, 3), color, np.uint8)
    seen = model.predict(frame)
    assert seen.label == label
    assert seen.probability > 0.99
    assert list(seen.probabilities) == list(seen.classes) == ["red", "green", "blue"]
    assert seen.logits == pytest.approx(logits, abs=1e-3)
    assert model.predict(frame[..., ::-1], color="bgr").label == label


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_one_by_one_batched_and_streamed_answers_are_the_same_in_the_same_order(
    threads, batch_size, tiny_model, pictures
):
    model = medinfer.load(tiny_model, "cpu", threads=threads)
    single = rows([model.predict(image) for image in pictures])
    assert len(np.unique(single.round(2), axis=0)) == len(single)  # otherwise a wrong order would not show
    np.testing.assert_allclose(rows(model.predict_batch(pictures)), single, atol=1e-4)
    np.testing.assert_allclose(rows(model.predict_many(pictures, batch_size=batch_size)), single, atol=1e-4)


def test_a_path_bytes_and_an_array_give_the_same_answer(model, picture, encode, tmp_path):
    array = picture(50, 40)
    data = encode(array, "PNG")
    path = tmp_path / "scan.png"
    path.write_bytes(data)
    seen = [model.predict(source) for source in (path, str(path), data, array)]
    assert len({tuple(row) for row in rows(seen)}) == 1
    assert [one.source for one in seen] == [str(path), str(path), None, None]


def test_a_gray_model_answers_for_colour_and_gray_pictures(
    build_model, model_spec, input_spec, numpy_logits, picture, tmp_path
):
    matrix = np.float32([[24, -12, 3]])
    spec = model_spec(input=input_spec(color="gray", height=5, width=7))
    model = medinfer.load(build_model(tmp_path / "gray.onnx", spec, matrix=matrix), "cpu")
    images = [picture(20, 20), picture(20, 20, 1)]
    tensors = np.stack([preprocess(image, spec.input) for image in images])
    expected = numpy_logits(tensors, matrix)
    np.testing.assert_allclose([seen.raw for seen in model.predict_batch(images)], expected, atol=1e-4)


def test_no_images_give_no_answers(model):
    assert model.predict_batch([]) == []
    assert list(model.predict_many([])) == []


def test_an_answer_stays_as_it_is_when_the_model_runs_again(model, pictures):
    first = model.predict_batch(pictures[:3])
    before = rows(first)
    model.predict_batch(pictures[3:6])
    np.testing.assert_array_equal(rows(first), before)


def test_eight_threads_that_share_a_model_get_the_answers_of_one(model, pictures):
    work = pictures * 8
    expected = rows([model.predict(image) for image in work])
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(rows(pool.map(model.predict, work)), expected)


# streams


@pytest.mark.parametrize(("threads", "batch_size"), [(1, None), (2, None), (2, 4), (4, 1)])
def test_images_are_taken_as_they_are_needed(threads, batch_size, tiny_model, picture):
    taken = []
    image = picture(12, 16)

    def source():
        for number in range(10_000):
            taken.append(number)
            yield image

    stream = medinfer.load(tiny_model, "cpu", threads=threads).predict_many(source(), batch_size=batch_size)
    assert taken == []
    for _ in range(3):
        next(stream)
    # Two chunks for each thread, and those of the answers already given.
    assert 3 <= len(taken) <= 3 + (2 * threads + 1) * (batch_size or 1)
    stream.close()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_bad_image_has_its_error_and_the_run_goes_on(batch_size, model, picture, tmp_path):
    image = picture(20, 20)
    missing = str(tmp_path / "missing.png")
    stream = list(model.predict_many([image, missing, b"text", image, np.zeros((4, 4))], batch_size=batch_size))
    assert [seen.error and seen.error.code for seen in stream] == [
        None,
        "not_found",
        "not_an_image",
        None,
        "unsupported_dtype",
    ]
    assert stream[1].source == missing
    assert stream[1].scores is stream[1].raw is None
    for name in ("label", "probability", "probabilities", "logits"):
        assert failing(lambda name=name: getattr(stream[1], name), ImageError) is stream[1].error
    np.testing.assert_array_equal(rows([stream[0], stream[3]]), rows([model.predict(image)] * 2))


def test_a_chunk_of_bad_images_alone_is_no_trouble(model):
    assert [seen.error.code for seen in model.predict_batch([b"", b"x"])] == ["empty_file", "not_an_image"]


def test_a_single_bad_image_is_raised(model, tmp_path):
    assert failing(lambda: model.predict(tmp_path / "missing.png"), ImageError).code == "not_found"


def test_a_picture_over_the_models_limit_is_refused(tiny_model, picture):
    model = medinfer.load(tiny_model, "cpu", max_pixels=100)
    assert model.predict(picture(10, 10)).label
    assert failing(lambda: model.predict(picture(10, 11)), ImageError).code == "too_large"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_answer_that_is_no_number_is_an_error_and_spoils_no_other(batch_size, build_model, picture, tmp_path):
    model = medinfer.load(build_model(tmp_path / "ratio.onnx", ratio=True), "cpu")
    black, other = np.zeros((9, 9, 3), np.uint8), picture(20, 20)
    stream = list(model.predict_many([other, black, other], batch_size=batch_size))
    assert [seen.error and seen.error.code for seen in stream] == [None, "non_finite_output", None]
    assert stream[0].logits == pytest.approx({"red": 6, "green": -6, "blue": 0}, abs=1e-4)
    assert failing(lambda: model.predict(black), ImageError).code == "non_finite_output"


def test_probabilities_that_are_no_numbers_are_an_error_though_the_logits_are(tiny_model, picture, tmp_path):
    proto = onnx.load(tiny_model)
    softmax = proto.graph.node[-1]
    softmax.op_type = "Sqrt"  # of negative logits
    softmax.ClearField("attribute")
    onnx.save(proto, tmp_path / "sqrt.onnx")
    model = medinfer.load(tmp_path / "sqrt.onnx", "cpu")
    assert failing(lambda: model.predict(picture(9, 9)), ImageError).code == "non_finite_output"


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_a_usage_error(batch_size, model):
    assert failing(lambda: model.predict_many([], batch_size=batch_size), UsageError).exit_code == 2


def test_an_unknown_channel_order_is_a_usage_error(model, picture):
    failing(lambda: model.predict(picture(9, 9), color="xyz"), UsageError)
    failing(lambda: list(model.predict_many([picture(9, 9)], color="xyz")), UsageError)


def test_a_bad_image_is_let_go_at_once(model):
    """An error whose traceback holds the image keeps it until garbage is collected: 20 MB for each bad scan."""
    image = np.zeros((50, 50), np.float64)
    seen = weakref.ref(image)
    gc.disable()
    try:
        (prediction,) = model.predict_batch([image])
        del image
        assert seen() is None
        assert prediction.error.code == "unsupported_dtype"
    finally:
        gc.enable()


def test_all_threads_for_one_image_change_no_answer(tiny_model, pictures):
    quick = medinfer.load(tiny_model, "cpu", threads=2, latency=True)
    assert quick.threads == 1
    wanted = list(medinfer.load(tiny_model, "cpu", threads=2).predict_many(pictures))
    for found in ([quick.predict(image) for image in pictures], list(quick.predict_many(pictures))):
        assert [one.label for one in found] == [one.label for one in wanted]
        for ours, other in zip(found, wanted, strict=True):
            assert np.allclose(ours.raw, other.raw, atol=1e-5)


def test_a_session_has_the_threads_that_were_asked_for(tiny_model):
    def within(**wanted):
        return medinfer.load(tiny_model, "cpu", **wanted)._session.get_session_options().intra_op_num_threads

    assert within(threads=3) == 1
    assert within(threads=3, latency=True) == 3


@pytest.mark.parametrize("threads", [0, -2])
def test_fewer_threads_than_one_is_a_usage_error(threads, tiny_model):
    failing(lambda: medinfer.load(tiny_model, "cpu", threads=threads), UsageError)


# files that are refused


@pytest.mark.parametrize("damage", ["garbage", "empty", "text", "half", "missing", "folder"])
def test_a_file_that_is_no_model_is_refused(damage, tiny_model, tmp_path):
    path = tmp_path / "model.onnx"
    whole = Path(tiny_model).read_bytes()
    contents = {"garbage": bytes(range(256)) * 9, "empty": b"", "text": b"hello", "half": whole[: len(whole) // 2]}
    if damage == "folder":
        path.mkdir()
    elif damage in contents:
        path.write_bytes(contents[damage])
    error = failing(lambda: medinfer.load(path, "cpu"), ModelError)
    assert error.exit_code == 4
    assert str(path) in str(error)
    assert ("no such file" in str(error)) == (damage in ("missing", "folder"))


def test_a_model_without_a_contract_is_refused(build_model, tmp_path):
    path = build_model(tmp_path / "bare.onnx", text="")
    assert "no medinfer.spec in its metadata" in str(failing(lambda: medinfer.load(path, "cpu"), ModelError))


@pytest.mark.parametrize("text", ["{}", "not json", '{"format":2}'])
def test_a_model_with_a_contract_that_cannot_be_read_is_refused(text, build_model, tmp_path):
    path = build_model(tmp_path / "bad.onnx", text=text)
    assert len(str(failing(lambda: medinfer.load(path, "cpu"), ModelError))) < 1000


def test_a_contract_of_unreasonable_size_is_refused(build_model, model_spec, tmp_path):
    path = build_model(tmp_path / "huge.onnx", text=model_spec().dumps() + " " * (65 << 20))
    assert "at most" in str(failing(lambda: medinfer.load(path, "cpu"), ModelError))


def test_a_bad_field_in_a_models_contract_is_named(build_model, model_spec, tmp_path):
    data = model_spec().to_json()
    data["input"]["std"] = [1.0, 0.0, 1.0]
    path = build_model(tmp_path / "bad.onnx", text=json.dumps(data))
    assert failing(lambda: medinfer.load(path, "cpu"), SpecError).path == "input.std[1]"


@pytest.mark.parametrize("folder", ["", "absolute"])
def test_weights_in_a_second_file_are_refused(folder, tiny_model, tmp_path):
    path = tmp_path / "model.onnx"
    model = onnx.load(tiny_model)
    matrix = next(tensor for tensor in model.graph.initializer if tensor.name == "matrix")
    (tmp_path / "weights").write_bytes(matrix.raw_data)
    location = str(tmp_path / "weights") if folder else "weights"
    onnx.external_data_helper.set_external_data(matrix, location)
    matrix.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    error = failing(lambda: medinfer.load(path, "cpu"), ModelError)
    assert "A model must be one file" in error.hint


@pytest.mark.parametrize(
    ("input_fields", "spec_fields", "words"),
    [
        ({"height": 13}, {}, "its contract says"),
        ({"width": 12, "height": 16}, {}, "its contract says"),
        ({"color": "gray"}, {}, "its contract says"),
        ({}, {"classes": ["a", "b"], "task": "binary"}, "not float"),
        ({}, {"classes": ["a", "b", "c", "d"]}, "not float"),
        ({}, {"graph": None}, "says nothing of the graph"),
        ({}, {"graph": {"input": "image", "batch": 1}}, "its contract says ('tensor(uint8)', ['any', 'any', 3])"),
        ({}, {"graph": {"input": "float"}}, "its contract says ('tensor(float)', [3, 12, 16])"),
        ({}, {"graph": {"batch": 2}}, "its batch size is batch, its contract says 2"),
    ],
)
def test_a_graph_that_is_not_what_its_contract_says_is_refused(
    input_fields, spec_fields, words, build_model, model_spec, input_spec, tmp_path
):
    told = model_spec(input=input_spec(**input_fields), **spec_fields)
    path = build_model(tmp_path / "other.onnx", text=told.dumps())
    assert words in str(failing(lambda: medinfer.load(path, "cpu"), ModelError))


def test_a_graph_of_a_fixed_batch_is_refused(build_model, tmp_path):
    path = build_model(tmp_path / "fixed.onnx", batch=1)
    assert "its batch size is 1, its contract says any" in str(failing(lambda: medinfer.load(path, "cpu"), ModelError))


def test_a_model_whose_name_is_not_utf8_is_opened(tiny_model, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.onnx")
    with open(path, "wb") as file:
        file.write(tiny_model.read_bytes())
    assert medinfer.load(path, "cpu").classes == medinfer.load(tiny_model, "cpu").classes


def test_an_image_of_few_levels_is_answered_with_a_warning(model):
    steps = np.arange(40 * 40).reshape(40, 40)
    few, enough = (steps % 15).astype(np.uint8), (steps % 64).astype(np.uint8)
    spec = model.spec.input
    assert len(np.unique(medinfer.preprocess(few, spec))) < 16 <= len(np.unique(medinfer.preprocess(enough, spec)))
    assert [seen.warnings for seen in model.predict_many([few, enough])] == [("few_levels",), ()]


def test_a_dicom_file_without_a_window_is_answered_with_a_warning(model, write_dicom, picture):
    pixels = picture(40, 40, 1)
    plain = write_dicom(pixels)
    windowed = write_dicom(pixels, WindowCenter=100, WindowWidth=200)
    assert [model.predict(data).warnings for data in (plain, windowed)] == [("window_fallback",), ()]
