"""DICOM: what a stored value is shown as. How it is stored: test_dicom_elements.py, test_dicom_frames.py."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medinfer.imaging import preprocess
from medinfer.imaging.dicom import read_dicom as read_dicom_file
from medinfer.spec import Dicom

VALUES = np.uint16([[0, 49, 50, 100, 149, 150, 4095]])
# Centre 100, width 101: y = (v - 99.5) / 100 + 0.5, so -0.495, -0.005, 0.005, 0.505, 0.995, 1.005, ...
SHOWN = [[0, 0, 1, 129, 254, 255, 255]]
INVERTED = [[255, 255, 254, 126, 1, 0, 0]]  # from 1 - y: 0.495 x 255 = 126.225
WINDOW = {"WindowCenter": 100, "WindowWidth": 101}
FOUR = np.uint8([[0, 1, 2, 3]])


@pytest.fixture(scope="session")
def shown():
    """The levels and the warnings of a DICOM file: `shown(data, window="minmax")`."""

    def show(data, **fields):
        pixels, warnings = read_dicom_file(data, Dicom(**fields), 10_000)
        return pixels.tolist(), warnings

    return show


def lut(entries, *, first=0, bits=16, packed=False):
    """An item of a LUT sequence; `packed` stores two entries of 8 bits in a word."""
    item = Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", np.array(entries, np.uint8 if packed else "<u2").tobytes())
    return Sequence([item])


def group(**tags):
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return Sequence([item])


# windows


def test_an_explicit_window_is_the_standards_linear_function(read_dicom, write_dicom):
    assert read_dicom(write_dicom(VALUES), window=[100, 101]).tolist() == SHOWN


@pytest.mark.parametrize("tags", [{"WindowCenter": 5, "WindowWidth": 7}, {**WINDOW, "VOILUTFunction": "SIGMOID"}])
def test_an_explicit_window_goes_before_the_files_own(tags, read_dicom, write_dicom):
    assert read_dicom(write_dicom(VALUES, **tags), window=[100, 101]).tolist() == SHOWN


def test_the_files_window_is_taken_by_default(read_dicom, write_dicom):
    assert read_dicom(write_dicom(VALUES, **WINDOW)).tolist() == SHOWN


def test_of_several_windows_in_a_file_the_first_is_taken(read_dicom, write_dicom):
    data = write_dicom(VALUES, WindowCenter=[100, 5], WindowWidth=[101, 7])
    assert read_dicom(data, window="file").tolist() == SHOWN


@pytest.mark.parametrize(("centre", "least"), [(100, 3), (100.5, 4)])
def test_a_window_of_width_one_is_a_threshold(centre, least, read_dicom, write_dicom):
    # Above centre - 0.5: from the fourth value, 100, on, or from the fifth.
    assert read_dicom(write_dicom(VALUES), window=[centre, 1]).tolist() == [[0] * least + [255] * (7 - least)]


@pytest.mark.parametrize(
    ("function", "shown"),
    # y = (v - 100) / 100 + 0.5, and 1 / (1 + exp(-(v - 100) / 25)): 0.0180, 0.1150, 0.1192, 0.5, 0.8765, 0.8808, 1
    [("LINEAR_EXACT", [0, 0, 0, 128, 252, 255, 255]), ("SIGMOID", [5, 29, 30, 128, 224, 225, 255])],
)
def test_the_file_names_the_function_of_its_window(function, shown, read_dicom, write_dicom):
    data = write_dicom(VALUES, WindowCenter=100, WindowWidth=100, VOILUTFunction=function)
    assert read_dicom(data).tolist() == [shown]


@pytest.mark.parametrize("width", ["0", "0.5", "-3"])
def test_a_window_of_a_width_that_its_function_does_not_allow_is_passed_over(width, shown, write_dicom):
    data = write_dicom(np.uint8([[10, 60, 110]]), WindowCenter=100, WindowWidth=width)
    assert shown(data) == ([[0, 128, 255]], ("window_fallback",))


# the range of a frame's values


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": None, "WindowWidth": None}], ids=["none", "empty"])
def test_without_a_window_in_the_file_the_range_of_the_frame_is_shown_and_a_warning_given(tags, shown, write_dicom):
    data = write_dicom(np.uint16([[100, 150, 200, 300]]), BitsStored=12, **tags)
    assert shown(data) == ([[0, 64, 128, 255]], ("window_fallback",))  # 50 / 200 x 255 = 63.75
    assert shown(data, window="minmax") == ([[0, 64, 128, 255]], ())
    assert shown(write_dicom(VALUES, **WINDOW)) == (SHOWN, ())


def test_minmax_is_of_rescaled_values_also_if_they_fall(shown, write_dicom):
    data = write_dicom(np.int16([[-10, 0, 10]]), RescaleSlope=-3, RescaleIntercept=1000)
    assert shown(data, window="minmax")[0] == [[255, 128, 0]]


def test_minmax_is_of_the_frame_that_is_shown(shown, write_dicom):
    frames = np.uint8([[[0, 10, 20, 255]], [[100, 100, 150, 200]]])
    data = write_dicom(frames, NumberOfFrames=2, Rows=1, Columns=4)
    assert shown(data, window="minmax", frame=1)[0] == [[0, 0, 128, 255]]


@pytest.mark.parametrize(
    ("percentiles", "ends"),
    # Of 1, 2, ..., 1000 the nearest rank of p is ceil(10 p).
    [([0, 100], (1, 1000)), ([1, 99], (10, 990)), ([0.05, 99.95], (1, 1000)), ([50, 99.9], (500, 999))],
)
def test_percentiles_are_nearest_ranks(percentiles, ends, shown, write_dicom):
    values = np.random.default_rng(1).permutation(np.arange(1, 1001, dtype=np.uint16)).reshape(20, 50)
    made = shown(write_dicom(values, RescaleSlope=1, RescaleIntercept=-5000), window={"percentile": percentiles})[0]
    share = np.clip((values.astype(float) - ends[0]) / (ends[1] - ends[0]), 0, 1)
    np.testing.assert_array_equal(made, np.floor(255 * share + 0.5))


def test_percentiles_weigh_how_often_a_value_is_there(shown, write_dicom):
    values = np.repeat(np.uint8([0, 50, 100, 200]), [1, 97, 1, 1]).reshape(10, 10)
    assert shown(write_dicom(values), window={"percentile": [1, 99]})[0][-1][-3:] == [128, 255, 255]
    assert np.unique(shown(write_dicom(values), window={"percentile": [2, 98]})[0]).tolist() == [0]


@pytest.mark.parametrize("window", ["minmax", {"percentile": [0, 100]}])
@pytest.mark.parametrize(
    ("pixels", "tags"),
    [
        (np.int16([[-2000, 0, 100, 200]]), {"PixelPaddingValue": -2000}),
        (np.int16([[-2000, 0, 100, 200]]), {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2500}),
        (np.int16([[-2000, 0, 100, 200]]), {"PixelPaddingValue": -2000, "BitsStored": 12}),
        (np.uint16([[0, 1000, 1100, 1200]]), {"PixelPaddingValue": 0}),
    ],
    ids=["signed", "range", "12 bits", "unsigned"],
)
def test_padding_is_left_out_of_the_range_and_clipped_like_any_value(window, pixels, tags, shown, write_dicom):
    assert shown(write_dicom(pixels, RescaleSlope=2, RescaleIntercept=7, **tags), window=window)[0] == [
        [0, 0, 128, 255]
    ]


@pytest.mark.parametrize("window", ["file", "minmax", {"percentile": [1, 99]}])
@pytest.mark.parametrize(
    ("tags", "level"),
    [
        ({}, 0),
        ({"PixelPaddingValue": 7}, 0),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 255),
        ({"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 7}, 255),
    ],
    ids=["constant", "all padding", "inverted", "inverted padding"],
)
def test_an_empty_range_is_level_0(window, tags, level, shown, write_dicom):
    assert shown(write_dicom(np.full((3, 4), 7, np.uint8), **tags), window=window)[0] == [[level] * 4] * 3


def test_signed_samples_have_their_own_range(read_dicom, write_dicom):
    assert read_dicom(write_dicom(np.int16([[-32768, 0, 32767]]))).tolist() == [[0, 128, 255]]


def test_what_stands_above_the_stored_bits_means_nothing(read_dicom, write_dicom):
    plain = np.uint16([[0, 1000, 4095]])
    data = write_dicom(plain | 0x5000, BitsStored=12)
    assert read_dicom(data).tolist() == read_dicom(data, window=[2048, 4096]).tolist() == [[0, 62, 255]]
    # Of 12 bits the highest is the sign, whatever the four above it say.
    signed = write_dicom(np.int16([[0x0800, 0x0000, 0x07FF]]), BitsStored=12)
    assert read_dicom(signed).tolist() == [[0, 128, 255]]


# modality and VOI look-up tables


def test_the_rescale_is_applied_before_the_window(read_dicom, write_dicom):
    halves = write_dicom(VALUES // 2, RescaleSlope=2, RescaleIntercept=1, **WINDOW)
    # 0, 24, 25, 50, 74, 75, 2047 -> 1, 49, 51, 101, 149, 151, 4095: y of 101 is 0.515, of 51 0.015
    assert read_dicom(halves).tolist() == [[0, 0, 4, 131, 254, 255, 255]]


def test_a_modality_table_stands_for_the_rescale(read_dicom, write_dicom):
    table = lut([49, 50, 100, 149], first=1, bits=8)
    # Below the first value the first entry, above the last the last.
    assert read_dicom(write_dicom(np.uint8([[0, 2, 3, 9]]), ModalityLUTSequence=table, **WINDOW)).tolist() == [
        [0, 1, 129, 254]
    ]
    # 1 / 100 x 255 = 2.55
    assert read_dicom(write_dicom(np.uint8([[0, 2, 3, 9]]), ModalityLUTSequence=table)).tolist() == [[0, 3, 130, 255]]


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (lut([0, 1000, 2000, 4095], bits=12), [0, 62, 125, 255]),
        (lut([0, 10, 20, 30], bits=8), [0, 10, 20, 30]),
        (lut([0, 10, 20, 30], bits=8, packed=True), [0, 10, 20, 30]),
        (lut([0, 65535], first=2), [0, 0, 0, 255]),
        (lut([0, 16384, 32768, 49152, 65535], first=-2), [128, 191, 255, 255]),
        (lut([0, 0x1000, 0x8000, 0xFFFF], bits=12), [0, 16, 128, 255]),  # of 16 bits, whatever it says
    ],
    ids=["12 bits", "8 bits", "8 bits packed", "first mapped", "negative first mapped", "lying about its bits"],
)
def test_a_voi_table_is_applied_and_scaled_by_its_bits(table, shown, read_dicom, write_dicom):
    assert read_dicom(write_dicom(FOUR, VOILUTSequence=table)).tolist() == [shown]


def test_a_voi_table_is_pydicoms(read_dicom, write_dicom):
    random = np.random.default_rng(5)
    pixels = random.integers(-100, 900, (20, 30)).astype(np.int16)
    table = lut(np.sort(random.integers(0, 4096, 500)), first=-50, bits=12)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -50, "VOILUTSequence": table}
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.set_original_encoding(False, True)
    modality = apply_modality_lut(pixels, dataset).astype(np.int32)
    expected = apply_voi_lut(modality, dataset) / 4095
    made = read_dicom(write_dicom(pixels, **tags))
    np.testing.assert_array_equal(made, np.floor(255 * expected + 0.5))


def test_of_a_window_and_a_table_the_window_is_taken_if_it_can_be(read_dicom, write_dicom):
    table = lut([200, 200, 200, 200], bits=8)
    assert read_dicom(write_dicom(VALUES, VOILUTSequence=table, **WINDOW)).tolist() == SHOWN
    data = write_dicom(FOUR, VOILUTSequence=table, WindowCenter=2, WindowWidth=0)
    assert read_dicom(data).tolist() == [[200] * 4]


def test_a_frames_own_rescale_and_window_go_before_the_shared_ones_and_those_beside_the_pixels(read_dicom, write_dicom):
    def frame(intercept):
        return group(
            PixelValueTransformationSequence=group(RescaleSlope=1, RescaleIntercept=intercept),
            FrameVOILUTSequence=group(WindowCenter=100, WindowWidth=101),
        )[0]

    frames = np.stack([VALUES[:, :6], VALUES[:, :6] + 24])
    tags = {"NumberOfFrames": 2, "Rows": 1, "Columns": 6}
    shared = {"SharedFunctionalGroupsSequence": Sequence([frame(0)]), "WindowCenter": 5, "WindowWidth": 7}
    data = write_dicom(frames, **tags, **shared, PerFrameFunctionalGroupsSequence=Sequence([frame(0), frame(-24)]))
    assert [read_dicom(data, frame=index).tolist() for index in (0, 1)] == [[SHOWN[0][:6]]] * 2
    data = write_dicom(frames, **tags, **shared)
    assert read_dicom(data).tolist() == [SHOWN[0][:6]]


@pytest.mark.parametrize(("tags", "window"), [(WINDOW, "file"), ({}, [100, 101])])
def test_monochrome1_is_inverted_once(tags, window, read_dicom, write_dicom):
    tags = {**tags, "PresentationLUTShape": "INVERSE"}  # which says the same again
    data = write_dicom(VALUES, PhotometricInterpretation="MONOCHROME1", **tags)
    assert read_dicom(data, window=window).tolist() == INVERTED


def test_monochrome1_is_inverted_without_a_window_too(read_dicom, write_dicom):
    data = write_dicom(np.uint8([[0, 1, 255]]), PhotometricInterpretation="MONOCHROME1")
    assert read_dicom(data).tolist() == [[255, 254, 0]]


def test_a_dicom_goes_on_as_any_picture(read_dicom, input_spec, write_dicom):
    spec = input_spec(height=2, width=2, color="gray", fit={"pad": {"value": 9}})
    image = read_dicom(write_dicom(VALUES[:, 2:4]), window=[100, 101])
    assert preprocess(image, spec)[..., 0].tolist() == [[1, 129], [9, 9]]


def test_a_large_radiograph_takes_little_more_than_its_file_and_its_result(read_dicom, write_dicom):
    pixels = np.random.default_rng(0).integers(0, 65536, (2000, 2000)).astype(np.uint16)
    data = write_dicom(pixels, RescaleSlope="0.5", **WINDOW)
    tracemalloc.start()
    read_dicom(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * pixels.size  # bytes: one of the result, and the table


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_way_to_write_the_elements_is_read(syntax, read_dicom, write_dicom):
    table = lut([0, 1000, 2000, 4095], bits=12)
    if syntax == ExplicitVRBigEndian:
        table[0].LUTData = np.frombuffer(table[0].LUTData, "<u2").astype(">u2").tobytes()
    assert read_dicom(write_dicom(VALUES, syntax=syntax, **WINDOW)).tolist() == SHOWN
    assert read_dicom(write_dicom(FOUR, syntax=syntax, VOILUTSequence=table)).tolist() == [[0, 62, 125, 255]]


def test_a_table_that_cannot_be_is_refused(write_dicom, dicom_refusal):
    for table in (lut([0, 1], bits=40), lut([], bits=8)):
        assert dicom_refusal(write_dicom(FOUR, VOILUTSequence=table)).code == "invalid_dicom"
