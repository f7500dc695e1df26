from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, SecondaryCaptureImageStorage

from medinfer.errors import ImageError
from medinfer.images import read_image
from medinfer.pixels import preprocess

VALUES = np.uint16([[0, 49, 50, 100, 149, 150, 4095]])
# Centre 100, width 101: y = (v - 99.5) / 100 + 0.5, so -0.495, -0.005, 0.005, 0.505, 0.995, 1.005, ...
SHOWN = [[0, 0, 1, 129, 254, 255, 255]]
INVERTED = [[255, 255, 254, 126, 1, 0, 0]]  # from 1 - y: 0.495 x 255 = 126.225
WINDOW = {"WindowCenter": 100, "WindowWidth": 101}


def dataset_of(pixels, tags):
    dataset = Dataset()
    color = pixels.ndim > 2 and pixels.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    return dataset


def write(pixels, *, syntax=ExplicitVRLittleEndian, fragment=None, **tags):
    """The bytes of a DICOM file; `fragment` is the compressed stream that stands for the pixels."""
    dataset = dataset_of(pixels, tags)
    dataset.PixelData = pixels.tobytes() if fragment is None else encapsulate([fragment])
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    dataset["PixelData"].is_undefined_length = fragment is not None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def read(input_spec):
    """Read with a `dicom` field: `read(data, window=[40, 400])`."""
    return lambda data, **fields: read_image(data, input_spec(dicom=fields))


@pytest.fixture(scope="module")
def refusal(read):
    def code_of(data, **fields):
        with pytest.raises(ImageError) as caught:
            read(data, **fields)
        return caught.value

    return code_of


def test_an_explicit_window_is_the_standards_linear_function(read):
    assert read(write(VALUES), window=[100, 101]).tolist() == SHOWN


def test_an_explicit_window_goes_before_the_files_own(read):
    assert read(write(VALUES, WindowCenter=5, WindowWidth=7), window=[100, 101]).tolist() == SHOWN


def test_the_files_window_is_taken_by_default(read):
    assert read(write(VALUES, **WINDOW)).tolist() == SHOWN


def test_of_several_windows_in_a_file_the_first_is_taken(read):
    data = write(VALUES, WindowCenter=[100, 5], WindowWidth=[101, 7])
    assert read(data, window="file").tolist() == SHOWN


@pytest.mark.parametrize(("centre", "least"), [(100, 3), (100.5, 4)])
def test_a_window_of_width_one_is_a_threshold(centre, least, read):
    # Above centre - 0.5: from the fourth value, 100, on, or from the fifth.
    assert read(write(VALUES), window=[centre, 1]).tolist() == [[0] * least + [255] * (7 - least)]


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": None, "WindowWidth": None}], ids=["none", "empty"])
def test_without_a_window_the_range_of_the_stored_bits_is_shown(tags, read):
    data = write(np.uint16([[0, 1, 2048, 4095]]), BitsStored=12, **tags)
    # 255 / 4095 = 0.062, 2048 / 4095 x 255 = 127.53
    assert read(data).tolist() == [[0, 0, 128, 255]]


def test_signed_samples_have_their_own_range(read):
    assert read(write(np.int16([[-32768, 0, 32767]]))).tolist() == [[0, 128, 255]]


def test_the_rescale_is_applied_before_the_window(read):
    halves = write(VALUES // 2, RescaleSlope=2, RescaleIntercept=1, **WINDOW)
    # 0, 24, 25, 50, 74, 75, 2047 -> 1, 49, 51, 101, 149, 151, 4095: y of 101 is 0.515, of 51 0.015
    assert read(halves).tolist() == [[0, 0, 4, 131, 254, 255, 255]]


def test_without_a_window_the_rescaled_range_is_shown_even_upside_down(read):
    data = write(np.uint8([[0, 51, 255]]), RescaleSlope=-3, RescaleIntercept=1000)
    assert read(data).tolist() == [[255, 204, 0]]


@pytest.mark.parametrize(("tags", "window"), [(WINDOW, "file"), ({}, [100, 101])])
def test_monochrome1_is_inverted_once(tags, window, read):
    data = write(VALUES, PhotometricInterpretation="MONOCHROME1", **tags)
    assert read(data, window=window).tolist() == INVERTED


def test_monochrome1_is_inverted_without_a_window_too(read):
    assert read(write(np.uint8([[0, 1, 255]]), PhotometricInterpretation="MONOCHROME1")).tolist() == [[255, 254, 0]]


@pytest.mark.parametrize("frame", [0, 2])
def test_the_frame_asked_for_is_taken(frame, read):
    frames = np.uint8([[[1, 2]], [[3, 4]], [[5, 6]]])
    data = write(frames, NumberOfFrames=3, Rows=1, Columns=2)
    assert read(data, frame=frame).tolist() == frames[frame].tolist()


@pytest.mark.parametrize(("frames", "frame"), [(1, 1), (3, 3)])
def test_a_frame_that_is_not_there_is_refused(frames, frame, refusal):
    data = write(np.zeros((frames, 1, 2), np.uint8), NumberOfFrames=frames, Rows=1, Columns=2)
    assert refusal(data, frame=frame).code == "multi_frame"


def test_colour_is_read_as_rgb_whatever_the_layout_of_its_planes(read):
    pixels = np.uint8([[[255, 0, 1], [2, 254, 3]]])
    assert read(write(pixels)).tolist() == pixels.tolist()
    planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    assert read(write(planes, Rows=1, Columns=2, **tags)).tolist() == pixels.tolist()


def test_ybr_becomes_rgb(read):
    data = write(np.uint8([[[76, 85, 255], [150, 44, 21]]]), PhotometricInterpretation="YBR_FULL")
    assert np.abs(read(data).astype(int) - [[[255, 0, 0], [0, 255, 0]]]).max() <= 2


def test_a_palette_becomes_rgb(read):
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in {"Red": [0, 0xFF00], "Green": [0x8000, 0], "Blue": [0, 0x1234]}.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = np.uint16(entries).tobytes()
    assert read(write(np.uint8([[0, 1]]), **tags)).tolist() == [[[0, 0x80, 0], [0xFF, 0, 0x12]]]


def test_a_compressed_file_is_decoded(read, encode, pillow):
    pixels = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    jpeg = encode(pixels, "JPEG")
    made = read(write(pixels, syntax=JPEGBaseline8Bit, fragment=jpeg))
    np.testing.assert_array_equal(made, pillow(jpeg))


def test_a_dicom_goes_on_as_any_picture(input_spec):
    spec = input_spec(height=2, width=2, color="gray", dicom={"window": [100, 101]}, fit={"pad": {"value": 9}})
    image = read_image(write(VALUES[:, 2:4]), spec)
    assert preprocess(image, spec)[..., 0].tolist() == [[1, 129], [9, 9]]


def test_a_dicom_file_needs_no_suffix(read, tmp_path):
    file = tmp_path / "IM0001"
    file.write_bytes(write(VALUES, **WINDOW))
    assert read(file).tolist() == SHOWN


# what is refused


def test_a_size_over_the_limit_is_refused_by_the_header_whatever_it_is_made_of(refusal):
    for tags in ({"Rows": 60_000, "Columns": 60_000}, {"Rows": 1000, "Columns": 1000, "NumberOfFrames": 500}):
        assert refusal(write(VALUES, **tags)).code == "too_large"


@pytest.mark.parametrize("function", ["SIGMOID", "LINEAR_EXACT"])
def test_another_look_up_than_the_linear_one_is_refused_unless_the_contract_sets_a_window(function, read, refusal):
    data = write(VALUES, VOILUTFunction=function, **WINDOW)
    assert refusal(data).code == "unsupported_format"
    assert read(data, window=[100, 101]).tolist() == SHOWN


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 2, "WindowWidth": 0.5}], ids=["alone", "with a bad window"])
def test_a_voi_table_is_refused(tags, refusal):
    table = Dataset()
    table.add_new(0x00283002, "US", [4, 0, 8])
    table.add_new(0x00283006, "OW", bytes([0, 10, 20, 30]))
    data = write(np.uint8([[0, 1, 2, 3]]), VOILUTSequence=Sequence([table]), **tags)
    assert refusal(data).code == "unsupported_format"


@pytest.mark.parametrize(
    ("pixels", "code"),
    [(np.uint32([[1]]), "unsupported_dtype"), (np.zeros((1, 1, 3), np.uint16), "unsupported_format")],
    ids=["32 bits", "16-bit colour"],
)
def test_samples_that_are_not_supported_are_refused(pixels, code, refusal):
    assert refusal(write(pixels)).code == code


@pytest.mark.parametrize("length", [132, 150, 200, 300, -1, -5])
def test_a_cut_off_dicom_is_refused(length, refusal):
    assert refusal(write(VALUES, **WINDOW)[:length]).code == "invalid_dicom"


def test_a_rescale_that_leaves_nothing_is_refused(refusal):
    assert refusal(write(VALUES, RescaleSlope=0, RescaleIntercept=1)).code == "invalid_dicom"


def test_a_transfer_syntax_without_a_decoder_is_refused_as_such(refusal):
    error = refusal(write(np.zeros((8, 8), np.uint8), syntax=JPEGLSLossless, fragment=b"garbage!" * 4))
    assert error.code == "missing_decoder"


def test_damaged_compressed_pixels_do_not_pass_for_a_missing_decoder(refusal, encode):
    jpeg = encode(np.tile(np.arange(64, dtype=np.uint8), (64, 1)), "JPEG")
    damaged = write(np.zeros((64, 64), np.uint8), syntax=JPEGBaseline8Bit, fragment=jpeg[: len(jpeg) // 2])
    assert refusal(damaged).code == "invalid_dicom"


def test_sequences_nested_without_end_are_refused_as_an_invalid_file(refusal):
    opened = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = write(VALUES)
    rows = data.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    assert refusal(data[:rows] + opened * 3000 + data[rows:]).code == "invalid_dicom"


def test_the_magic_alone_is_refused(refusal):
    assert refusal(bytes(128) + b"DICM").code == "invalid_dicom"
