from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, strategies as st

from medinfer.errors import ImageError
from medinfer.imaging import preprocess, read_image
from medinfer.spec import Depth16


@pytest.fixture(scope="module")
def prepare(input_spec):
    """`prepare(image, height, width, **fields)`: the tensor of an array; rows of numbers are a gray picture."""

    def run(image, height, width, *, out=None, **fields):
        image = np.array(image, np.uint8) if isinstance(image, list) else image
        return preprocess(image, input_spec(height=height, width=width, **fields), out=out)

    return run


@pytest.fixture(scope="module")
def gray(prepare):
    """As `prepare`, for a gray contract; returns (height, width) as lists."""
    return lambda *args, **fields: prepare(*args, color="gray", **fields)[..., 0].tolist()


# color


def test_gray_of_a_colour_picture_is_opencvs_weighted_sum(gray):
    # 0.299 R + 0.587 G + 0.114 B, rounded: 76.245, 149.685, 29.07, and a mixture of 103.985
    row = np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [100, 120, 32]]])
    assert gray(row, 1, 5) == [[76, 150, 29, 255, 104]]


def test_gray_of_a_gray_picture_is_itself(gray):
    assert gray([[0, 1, 127, 254, 255]], 1, 5) == [[0, 1, 127, 254, 255]]


def test_rgb_of_a_colour_picture_is_itself_in_the_same_order(prepare):
    row = np.uint8([[[255, 0, 1], [2, 254, 3]]])
    assert prepare(row, 1, 2).tolist() == row.tolist()


def test_rgb_of_a_gray_picture_is_three_times_its_value(prepare):
    assert prepare([[0, 9, 255]], 1, 3).tolist() == [[[0] * 3, [9] * 3, [255] * 3]]


def test_colour_becomes_gray_before_it_is_resized(gray):
    # Each (0, 0, 5) is 0.57, so 1: three of four give 0.75. Resized first, (0, 0, 3.75) would be 0.456.
    assert gray(np.uint8([[[0, 0, 5], [0, 0, 5]], [[0, 0, 5], [0, 0, 0]]]), 1, 1, interpolation="area") == [[1]]


# depth16


def test_high_byte_drops_the_low_byte(gray):
    row = np.uint16([[0, 255, 256, 511, 512, 0x7FFF, 0x8000, 65535]])
    assert gray(row, 1, 8) == [[0, 0, 1, 1, 2, 127, 128, 255]]


def test_a_range_is_scaled_rounded_and_clipped(gray):
    # (v - 1000) / 510 x 255 = (v - 1000) / 2, halves up
    row = np.uint16([[0, 999, 1000, 1001, 1002, 1003, 1255, 1509, 1510, 65535]])
    depth = {"rule": "range", "low": 1000, "high": 1510}
    assert gray(row, 1, 10, depth16=depth) == [[0, 0, 0, 1, 1, 2, 128, 255, 255, 255]]


@given(ends=st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_range_is_floor_of_255_x_plus_a_half_for_each_of_the_65536_values(ends, input_spec):
    low, high = ends
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rule = Depth16(rule="range", low=low, high=high)
    made = preprocess(values, input_spec(color="gray", height=256, width=256, depth16=rule))[..., 0]
    # In integers: floor(255 p / q + 1/2) = (510 p + q) // 2 q
    position, scale = np.clip(values.astype(np.int64), low, high) - low, high - low
    np.testing.assert_array_equal(made, (510 * position + scale) // (2 * scale))


def test_depth_is_reduced_before_resizing(gray):
    # 0, 0, 0, 1 give 0.25; resized first, 319 would have a high byte of 1
    assert gray(np.uint16([[255, 255], [255, 511]]), 1, 1, interpolation="area") == [[0]]


def test_depth_is_reduced_before_colour(gray):
    # The high bytes (1, 0, 0) are a gray of 0.299; the gray of the 16 bits, 331.5, would have a high byte of 1.
    assert gray(np.uint16([[[511, 255, 255], [0, 256, 0]]]), 1, 2) == [[0, 1]]


@pytest.mark.parametrize("rule", [{}, {"rule": "range", "low": 3, "high": 4}])
def test_a_picture_of_8_bits_is_left_alone_by_the_rule_for_16(rule, gray):
    assert gray([[0, 3, 4, 255]], 1, 4, depth16=rule) == [[0, 3, 4, 255]]


# interpolation, in numbers that are exact in any arithmetic


@pytest.mark.parametrize(
    ("interpolation", "row", "expected"),
    [
        ("linear", [40, 200], [40, 80, 160, 200]),  # weights 1/4 and 3/4 between the centres, the edge repeated
        ("area", [40, 200], [40, 40, 200, 200]),
        # A = -0.75: weights (-27, 225, 67, -9) / 256 in this order or the reverse: 23.125, 76.25, 163.75, 216.875
        ("cubic", [40, 200], [23, 76, 164, 217]),
        ("linear", [0, 30, 90, 60, 120, 0], [30, 120]),  # the pixels at 1 and 4: the others have no say
        ("area", [0, 30, 90, 60, 120, 0], [40, 60]),  # means of three
        ("cubic", [0, 30, 90, 60, 120, 0], [30, 120]),
        ("area", [10, 20, 50], [13, 40]),  # (10 + 20 / 2) / 1.5, (20 / 2 + 50) / 1.5
    ],
)
def test_a_row_is_resized_to_the_values_worked_by_hand(interpolation, row, expected, gray):
    assert gray([row] * 3, 3, len(expected), interpolation=interpolation) == [expected] * 3
    column = np.repeat(np.uint8(row)[:, None], 3, axis=1)
    assert gray(column, len(expected), 3, interpolation=interpolation) == [[value] * 3 for value in expected]


def linear(distance):
    return np.maximum(1 - np.abs(distance), 0)


def cubic(distance, a=-0.75):
    x = np.abs(distance)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def weights(kind, size, target):
    """The matrix (target, size) of a resize along one axis, written from the definitions."""
    scale = size / target
    if kind == "area":
        edges, pixels = np.arange(target + 1)[:, None] * scale, np.arange(size)
        covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        return np.maximum(covered, 0) / scale
    centres = (np.arange(target) + 0.5) * scale - 0.5
    matrix = np.zeros((target, size))
    for position in range(-2, size + 2):  # what lies outside counts for the pixel at the edge
        kernel = {"linear": linear, "cubic": cubic}[kind]
        matrix[:, min(max(position, 0), size - 1)] += kernel(centres - position)
    return matrix


def resized(kind, image, height, width):
    rows, columns = weights(kind, image.shape[0], height), weights(kind, image.shape[1], width)
    return np.clip(np.einsum("ij,jk...,lk->il...", rows, image.astype(float), columns), 0, 255)


SHRUNK, GROWN = [(7, 9), (20, 31), (13, 62)], [(41, 70), (80, 63)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, size) for kind in ("linear", "cubic") for size in SHRUNK + GROWN] + [("area", size) for size in SHRUNK],
)
def test_stretching_is_within_a_level_of_the_formula(kind, size, channels, prepare, picture):
    image = picture(40, 62, channels)
    made = prepare(image, *size, interpolation=kind, color="gray" if channels == 1 else "rgb")
    assert np.abs(made - resized(kind, image, *size).reshape(made.shape)).max() <= 1


# fit


@pytest.mark.parametrize("fit", ["stretch", {"crop": {"resize": 14}}, {"pad": {"value": 9}}])
@pytest.mark.parametrize("kind", ["linear", "area", "cubic"])
def test_a_picture_of_the_right_size_is_not_touched(fit, kind, prepare, picture):
    image = picture(14, 14)
    np.testing.assert_array_equal(prepare(image, 14, 14, fit=fit, interpolation=kind), image)


@pytest.mark.parametrize(
    ("shape", "resize", "size", "top", "left"),
    [
        ((320, 320), 320, (300, 300), 10, 10),
        ((4, 7), 4, (4, 4), 0, 1),  # 1.5
        ((7, 4), 4, (4, 4), 1, 0),
        ((5, 5), 5, (2, 4), 1, 0),  # 1.5 and 0.5
        ((6, 9), 6, (3, 6), 1, 1),
    ],
)
def test_a_crop_cuts_out_the_middle_and_leaves_the_odd_pixel_at_the_end(shape, resize, size, top, left, prepare):
    rows, columns = np.indices(shape) % 256
    image = np.dstack([rows, columns, rows])
    made = prepare(image.astype(np.uint8), *size, fit={"crop": {"resize": resize}})
    assert made.tolist() == image[top : top + size[0], left : left + size[1]].tolist()


@pytest.mark.parametrize("tall", [False, True])
def test_the_longer_side_before_a_crop_is_rounded_down(tall, gray):
    ramp = np.tile(np.uint8([0, 60, 120, 180, 240]), (3, 1))
    # 4 / 3 x 5 = 6.67, so 6
    expected = resized("linear", ramp, 4, 6)[:, 1:5]
    made = np.array(gray(ramp.T.copy() if tall else ramp, 4, 4, fit={"crop": {"resize": 4}}))
    assert np.abs((made.T if tall else made) - expected).max() <= 1


def test_a_crop_of_an_extremely_long_picture_is_refused_as_too_large(prepare):
    with pytest.raises(ImageError) as caught:
        prepare(np.zeros((1, 20_000), np.uint8), 300, 300, fit={"crop": {"resize": 320}})
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("shape", "inner", "top", "left"),
    [
        ((2, 4), (2, 4), 1, 0),
        ((4, 2), (4, 2), 0, 1),
        ((1, 4), (1, 4), 1, 0),  # 1.5
        ((5, 8), (3, 4), 0, 0),  # 2.5 rows, rounded up; then half a row above
        ((7, 20), (1, 4), 1, 0),  # 1.4
        ((1, 100), (1, 4), 1, 0),  # 0.04: never less than one
        ((2, 1), (4, 2), 0, 1),
    ],
)
@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_a_pad_keeps_the_aspect_and_fills_the_rest(shape, inner, top, left, anchor, gray):
    expected = np.full((4, 4), 200)
    top, left = (top, left) if anchor == "center" else (0, 0)
    expected[top : top + inner[0], left : left + inner[1]] = 50
    made = gray(np.full(shape, 50, np.uint8), 4, 4, fit={"pad": {"value": 200, "anchor": anchor}})
    assert made == expected.tolist()


def test_a_pad_is_black_unless_another_value_is_said_and_the_same_in_every_channel(prepare):
    assert prepare([[9, 9]], 2, 2, fit={"pad": {}}).tolist() == [[[9] * 3] * 2, [[0] * 3] * 2]
    assert prepare([[9, 9]], 2, 2, fit={"pad": {"value": 3}}).tolist() == [[[9] * 3] * 2, [[3] * 3] * 2]


@pytest.mark.parametrize("kind", ["linear", "area", "cubic"])
def test_the_inside_of_a_pad_is_resized_as_the_formula_says(kind, prepare, picture):
    image = picture(30, 48)
    made = prepare(image, 20, 24, interpolation=kind, fit={"pad": {"value": 1}})
    assert np.abs(made[2:17] - resized(kind, image, 15, 24)).max() <= 1
    assert (made[[0, 1, 17, 18, 19]] == 1).all()


# min_side


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (8, 8)])
def test_a_side_shorter_than_min_side_is_refused(shape, prepare):
    image = np.zeros(shape, np.uint8)
    assert prepare(image, 4, 4, min_side=8).shape == (4, 4, 3)
    with pytest.raises(ImageError) as caught:
        prepare(image, 4, 4, min_side=9)
    assert caught.value.code == "too_small"


# alpha


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        ("drop", [[200, 100, 0]] * 4),
        # 51 / 255 = 0.2: 0.2 x (200, 100, 0) + 0.8 x (10, 20, 30) = (48, 36, 24);  128 / 255: (105.37, 60.16, 14.94)
        ({"over": [10, 20, 30]}, [[10, 20, 30], [48, 36, 24], [105, 60, 15], [200, 100, 0]]),
    ],
)
def test_alpha_is_dropped_or_composed_onto_the_background(alpha, expected, prepare, input_spec, write_png):
    pixels = np.uint8([[[200, 100, 0, level] for level in (0, 51, 128, 255)]])
    image = read_image(write_png(pixels), input_spec(alpha=alpha))
    assert prepare(image, 1, 4, alpha=alpha).tolist() == [expected]


# what holds for every contract
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
FITS = st.sampled_from(["stretch", {"crop": {"resize": 24}}, {"pad": {"value": 9}}, {"pad": {"anchor": "top_left"}}])


@given(
    shape=SHAPES,
    size=SHAPES,
    fit=FITS,
    color=st.sampled_from(["rgb", "gray"]),
    kind=st.sampled_from(["linear", "area", "cubic"]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    channels=st.sampled_from([1, 3]),
)
def test_a_tensor_has_the_contracts_shape_and_the_picture_is_not_changed(
    shape, size, fit, color, kind, dtype, channels, prepare, picture
):
    image = picture(*shape, channels, dtype=dtype)
    before = image.copy()
    image.setflags(write=False)
    made = partial(prepare, image, *size, fit=fit, color=color, interpolation=kind)
    tensor = made()
    assert tensor.shape == (*size, 3 if color == "rgb" else 1)
    assert tensor.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    # Written into a given array, whatever that held, and nowhere else.
    room = np.full((3, *tensor.shape), 77, np.uint8)
    assert np.shares_memory(made(out=room[1]), room)
    np.testing.assert_array_equal(room[1], tensor)
    assert (room[[0, 2]] == 77).all()
