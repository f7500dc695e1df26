"""DICOM files: their elements, however they are written, and what is refused."""

from __future__ import annotations

import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from pydicom.uid import MPEG2MPML, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medinfer.imaging.dicom._elements import after_file_meta
from medinfer.inputs import find_images

VALUES = np.uint16([[0, 49, 50, 100, 149, 150, 4095]])
WINDOW = {"WindowCenter": 100, "WindowWidth": 101}
SHOWN = [[0, 0, 1, 129, 254, 255, 255]]  # test_dicom.py says why


def test_a_dicom_file_needs_no_suffix_and_a_directory_of_them_is_no_picture(read_dicom, write_dicom, tmp_path):
    data = write_dicom(VALUES, **WINDOW)
    for name in ("IM0001", "1.2.840.113619", "DICOMDIR", "notes"):
        (tmp_path / name).write_bytes(b"a note" if name == "notes" else data)
    search = find_images(tmp_path)
    found = list(search)
    assert found == [str(tmp_path / "1.2.840.113619"), str(tmp_path / "IM0001")]
    assert search.skipped == 2
    assert read_dicom(found[1]).tolist() == SHOWN


def test_a_file_that_misstates_how_its_elements_are_written_is_read(read_dicom, write_dicom):
    explicit, implicit = (write_dicom(VALUES, syntax=s, **WINDOW) for s in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"))
    starts = [after_file_meta(memoryview(data)) for data in (explicit, implicit)]
    assert read_dicom(explicit[: starts[0]] + implicit[starts[1] :]).tolist() == SHOWN
    assert read_dicom(implicit[: starts[1]] + explicit[starts[0] :]).tolist() == SHOWN


def test_dimensions_of_32_bits_are_read(read_dicom, write_dicom):
    data = write_dicom(VALUES, **WINDOW)
    for element, value in ((0x10, 1), (0x11, 7)):
        short = struct.pack("<HH2sHH", 0x28, element, b"US", 2, value)
        assert data.count(short) == 1
        data = data.replace(short, struct.pack("<HH2sHI", 0x28, element, b"UL", 4, value))
    assert read_dicom(data).tolist() == SHOWN


def test_rows_of_32_bits_are_not_cut_to_16(write_dicom, dicom_refusal):
    rows = struct.pack("<HH2sHI", 0x28, 0x10, b"UL", 4, 0x10001)
    data = write_dicom(VALUES).replace(struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 1), rows)
    assert dicom_refusal(data).code == "truncated"


@pytest.mark.parametrize("length", [0x4144, 0x5A5A])
def test_a_length_that_looks_like_a_vr_is_a_length(length, read_dicom, write_dicom):
    data = write_dicom(VALUES, syntax=ImplicitVRLittleEndian, Modality="OT", ImageComments="x" * length, **WINDOW)
    assert read_dicom(data).tolist() == SHOWN


def test_the_size_of_an_icon_is_not_that_of_the_picture(read_dicom, write_dicom):
    """Within sequences of undefined length, one in the other."""
    opened, item = struct.pack("<2sHI", b"SQ", 0, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    inner = struct.pack("<HH", 0x0008, 0x1140) + opened + item + ends[0] + ends[1]
    rows = struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 99)
    icon = struct.pack("<HH", 0x0088, 0x0200) + opened + item + inner + rows + ends[0] + ends[1]
    data = write_dicom(VALUES, **WINDOW)
    place = data.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    assert read_dicom(data[:place] + icon + data[place:]).tolist() == SHOWN


def nested(data, *, closed):
    """The file with sequences in sequences, 3000 deep, before its (0028,0010)."""
    opened = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    rows = data.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    return data[:rows] + opened * 3000 + end * (3000 if closed else 0) + data[rows:]


def test_deep_sequences_are_passed_over(read_dicom, write_dicom):
    assert read_dicom(nested(write_dicom(VALUES, **WINDOW), closed=True)).tolist() == SHOWN


def test_nothing_warns_whatever_is_odd(read_dicom, write_dicom, dicom_refusal):
    """With warnings for errors, as a program may have them, the outcome is the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is writing that warns here
        odd = write_dicom(VALUES, SpecificCharacterSet="NO_SUCH", PatientAge="very old", StudyDate="soon", **WINDOW)
    odd = odd.replace(b"100 ", b"1E2 ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_dicom(odd + bytes(16)).tolist() == SHOWN
        assert dicom_refusal(odd[:-3]).code == "truncated"


def test_files_are_read_by_many_threads_at_once(read_dicom, write_dicom):
    data, results = write_dicom(VALUES, **WINDOW), []
    threads = [threading.Thread(target=lambda: results.append(read_dicom(data).tolist())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SHOWN] * 8


# what is refused


def test_a_size_over_the_limit_is_refused_by_the_header(write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(VALUES, Rows=60_000, Columns=60_000)).code == "too_large"


def deflated(meta, elements):
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return meta + packer.compress(elements) + packer.flush()


def test_a_deflated_bomb_is_not_inflated(read_dicom, write_dicom, dicom_refusal):
    """80 MB in 80 kB: before the pixels refused at the limit of a header, behind them never looked at."""
    zeros = bytes(80 << 20)
    plain, meta = write_dicom(VALUES, **WINDOW), write_dicom(VALUES, syntax=DeflatedExplicitVRLittleEndian)
    elements, meta = plain[after_file_meta(memoryview(plain)) :], meta[: after_file_meta(memoryview(meta))]
    private = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, len(zeros))
    before, behind = deflated(meta, private + zeros + elements), deflated(meta, elements + zeros)
    columns = [struct.pack("<HH2sHH", 0x28, 0x11, b"US", 2, count) for count in (7, 60_000)]
    lying = deflated(meta, elements.replace(*columns))
    del zeros
    tracemalloc.start()
    assert dicom_refusal(before).code == "too_large"
    assert read_dicom(behind).tolist() == SHOWN
    assert dicom_refusal(lying).code == "truncated"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"PhotometricInterpretation": None}, "invalid_dicom"),
        ({"PhotometricInterpretation": "RGB"}, "invalid_dicom"),  # with one sample a pixel
        ({"PhotometricInterpretation": "HSV"}, "unsupported_format"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "invalid_dicom"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": "0"}, "invalid_dicom"),
        ({"VOILUTFunction": "CUBIC", **WINDOW}, "unsupported_format"),
        ({"BitsAllocated": 12}, "unsupported_dtype"),
        ({"BitsStored": 17}, "invalid_dicom"),
        ({"HighBit": 11}, "invalid_dicom"),
        ({"Rows": 0}, "invalid_dicom"),
        ({"Rows": None}, "invalid_dicom"),
        ({"NumberOfFrames": "-1"}, "invalid_dicom"),
        ({"PixelData": None}, "truncated"),
        ({"PixelData": None, "Rows": None, "Columns": None}, "unsupported_format"),  # a report, a plan, a directory
        ({"PixelData": None, "FloatPixelData": bytes(28)}, "unsupported_dtype"),
        ({"Rows": 9}, "truncated"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_meant_are_refused(tags, code, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(VALUES, **tags)).code == code


@pytest.mark.parametrize(
    ("pixels", "code"),
    [(np.uint32([[1]]), "unsupported_dtype"), (np.zeros((1, 1, 3), np.uint16), "unsupported_dtype")],
    ids=["32 bits", "16-bit colour"],
)
def test_samples_that_are_not_supported_are_refused(pixels, code, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(pixels)).code == code


@pytest.mark.parametrize("length", [150, 200, 300, -1, -5])
def test_a_cut_off_dicom_is_refused(length, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(VALUES, **WINDOW)[:length]).code == "truncated"


def test_sequences_nested_without_end_are_refused(write_dicom, dicom_refusal):
    assert dicom_refusal(nested(write_dicom(VALUES), closed=False)).code == "truncated"


def test_a_file_without_its_transfer_syntax_is_refused(write_dicom, dicom_refusal):
    assert dicom_refusal(bytes(128) + b"DICM").code == "invalid_dicom"
    data = write_dicom(VALUES)
    assert dicom_refusal(data[:132] + data[after_file_meta(memoryview(data)) :]).code == "invalid_dicom"


def test_video_is_refused(write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(VALUES, syntax=MPEG2MPML, fragment=bytes(40))).code == "unsupported_format"


def test_no_error_tells_what_a_file_says_of_its_patient(write_dicom, dicom_refusal):
    """Also where a name stands in an element that it does not belong in."""
    name = "DOE^JOHN"
    tags = {"PatientName": name, "PatientID": name, "InstitutionName": name}
    for wrong in ("WindowCenter", "RescaleSlope", "PhotometricInterpretation", "VOILUTFunction", "NumberOfFrames"):
        data = write_dicom(VALUES, **{**WINDOW, "RescaleIntercept": 0, **tags, wrong: "12345678"})
        error = dicom_refusal(data.replace(b"12345678", name.encode()))
        assert name not in str(error)


def test_uncompressed_files_need_no_pydicom(read_dicom, write_dicom, without_pydicom):
    data = write_dicom(VALUES, **WINDOW)
    without_pydicom()
    assert read_dicom(data).tolist() == SHOWN
