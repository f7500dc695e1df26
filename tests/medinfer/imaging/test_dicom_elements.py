"""DICOM files: their elements, however they are written, and what is refused."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from tests.faults.files import start_of_data_set

from medinfer.imaging.dicom import looks_like_dicom
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
    starts = [start_of_data_set(data) for data in (explicit, implicit)]
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


def nested(data, depth, *, closed):
    """The file with sequences in sequences before its (0028,0010)."""
    opened = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    rows = data.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    return data[:rows] + opened * depth + end * (depth if closed else 0) + data[rows:]


def test_nested_sequences_are_passed_over(read_dicom, write_dicom):
    assert read_dicom(nested(write_dicom(VALUES, **WINDOW), 50, closed=True)).tolist() == SHOWN


def test_nothing_is_printed_whatever_is_odd_and_no_warning_names_the_patient(
    read_dicom, write_dicom, dicom_refusal, capfd
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is writing that warns here
        odd = write_dicom(
            VALUES, SpecificCharacterSet="NO_SUCH", PatientAge="very old", PatientName="DOE^JOHN", **WINDOW
        )
    assert odd.count(b"100.0 ") == 1
    odd = odd.replace(b"100.0 ", b"1.00E2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_dicom(odd + bytes(16)).tolist() == SHOWN
        assert dicom_refusal(odd[:-3]).code == "truncated"
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in caught if "DOE" in str(warning.message) or "very old" in str(warning.message)]


def test_numbers_of_more_characters_than_allowed_are_read(read_dicom, write_dicom):
    data = write_dicom(VALUES, syntax=ImplicitVRLittleEndian, **WINDOW)
    short = struct.pack("<HHI", 0x0028, 0x1050, 6) + b"100.0 "
    assert data.count(short) == 1
    long = struct.pack("<HHI", 0x0028, 0x1050, 32) + b"100.0000000000000000000000000000"
    assert read_dicom(data.replace(short, long)).tolist() == SHOWN


def test_the_settings_of_pydicom_stay_as_they_are(read_dicom, write_dicom):
    def settings():
        decoders = {uid: get_decoder(uid).available_plugins for uid in (RLELossless, JPEG2000Lossless)}
        return {name: repr(value) for name, value in vars(config).items()}, decoders

    before = settings()
    read_dicom(write_dicom(VALUES, **WINDOW))
    assert settings() == before


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


def test_a_deflated_bomb_is_refused(read_dicom, write_dicom, dicom_refusal):
    """80 MB in 80 kB, before the pixels or behind them."""
    zeros = bytes(80 << 20)
    plain, meta = write_dicom(VALUES, **WINDOW), write_dicom(VALUES, syntax=DeflatedExplicitVRLittleEndian)
    elements, meta = plain[start_of_data_set(plain) :], meta[: start_of_data_set(meta)]
    private = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, len(zeros))
    before, behind = deflated(meta, private + zeros + elements), deflated(meta, elements + zeros)
    columns = [struct.pack("<HH2sHH", 0x28, 0x11, b"US", 2, count) for count in (7, 60_000)]
    lying = deflated(meta, elements.replace(*columns))
    del zeros
    assert dicom_refusal(before).code == "too_large"
    assert dicom_refusal(behind).code == "too_large"
    assert dicom_refusal(lying).code == "truncated"


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


REQUIRED = "Rows Columns BitsAllocated BitsStored PixelRepresentation SamplesPerPixel PhotometricInterpretation"


@pytest.mark.parametrize("keyword", [*REQUIRED.split(), "PlanarConfiguration"])
def test_a_required_element_that_is_missing_or_empty_is_refused(keyword, write_dicom, dicom_refusal):
    data = write_dicom(np.zeros((4, 4, 3), np.uint8))
    dataset = dcmread(io.BytesIO(data))
    for change in (lambda: setattr(dataset, keyword, None), lambda: delattr(dataset, keyword)):
        change()
        file = io.BytesIO()
        dataset.save_as(file)
        assert dicom_refusal(file.getvalue()).code == "invalid_dicom"


@pytest.mark.parametrize(("keyword", "value"), [("PixelRepresentation", 2), ("PlanarConfiguration", 2)])
def test_a_configuration_that_is_neither_0_nor_1_is_refused(keyword, value, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(np.zeros((4, 4, 3), np.uint8), **{keyword: value})).code == "invalid_dicom"


@pytest.mark.parametrize("tags", [{"RescaleSlope": 7}, {"RescaleIntercept": 1000}])
def test_half_a_rescale_is_not_applied(tags, read_dicom, write_dicom):
    assert read_dicom(write_dicom(VALUES, **tags, **WINDOW)).tolist() == SHOWN


def test_a_large_file_of_few_pixels_is_refused_before_it_is_read(write_dicom, dicom_refusal, tmp_path):
    """A sparse file of 1 GiB."""
    data = write_dicom(np.zeros((8, 8), np.uint8))
    path, size = tmp_path / "sparse.dcm", (1 << 30) - len(data)
    with path.open("wb") as file:
        file.write(data[:-68] + struct.pack("<I", size) + data[-64:])
        file.truncate(1 << 30)
    tracemalloc.start()
    assert dicom_refusal(path).code == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize(
    ("pixels", "code"),
    [(np.uint32([[1]]), "unsupported_dtype"), (np.zeros((1, 1, 3), np.uint32), "unsupported_dtype")],
    ids=["32 bits", "32-bit color"],
)
def test_samples_that_are_not_supported_are_refused(pixels, code, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(pixels)).code == code


@pytest.mark.parametrize("length", [150, 200, 300, -1, -5])
def test_a_cut_off_dicom_is_refused(length, write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(VALUES, **WINDOW)[:length]).code == "truncated"


@pytest.mark.parametrize("closed", [True, False])
def test_sequences_nested_too_deeply_are_refused(closed, write_dicom, dicom_refusal):
    assert dicom_refusal(nested(write_dicom(VALUES), 3000, closed=closed)).code == "invalid_dicom"


def test_a_file_without_its_transfer_syntax_is_refused(write_dicom, dicom_refusal):
    assert dicom_refusal(bytes(128) + b"DICM").code == "truncated"
    data = write_dicom(VALUES)
    start, syntax = start_of_data_set(data), data.index(struct.pack("<HH2s", 2, 0x10, b"UI"))
    (length,) = struct.unpack_from("<H", data, syntax + 6)
    assert dicom_refusal(data[:syntax] + data[syntax + 8 + length : start] + data[start:]).code == "invalid_dicom"


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


def test_without_pydicom_a_file_is_refused_with_the_line_to_install_it(write_dicom, dicom_refusal, without_pydicom):
    data = write_dicom(VALUES, **WINDOW)
    without_pydicom()
    error = dicom_refusal(data)
    assert (error.code, error.hint) == ("missing_extra", 'Install it: pip install "medonnx[dicom]"')


# without a preamble or file meta information

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_without_its_preamble_is_read(syntax, read_dicom, write_dicom):
    data = write_dicom(VALUES, syntax=syntax, StudyDate="20240506", **WINDOW)[132:]
    assert looks_like_dicom(data[:132])
    assert read_dicom(data).tolist() == SHOWN


@pytest.mark.parametrize("preamble", [b"", bytes(128) + b"DICM"], ids=["bare", "preamble"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_without_file_meta_information_is_read(syntax, preamble, read_dicom, write_dicom):
    data = write_dicom(VALUES, syntax=syntax, StudyDate="20240506", Modality="CT", **WINDOW)
    data = preamble + data[start_of_data_set(data) :]
    assert looks_like_dicom(data[:132])
    assert read_dicom(data).tolist() == SHOWN


def test_compressed_pixels_of_an_unknown_transfer_syntax_are_refused(write_dicom, dicom_refusal):
    data = write_dicom(VALUES, syntax=JPEG2000Lossless, fragment=bytes(40), StudyDate="20240506", **WINDOW)
    assert dicom_refusal(data[start_of_data_set(data) :]).code == "invalid_dicom"
    stated = data.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1\0\0\0")
    assert dicom_refusal(stated).code == "invalid_dicom"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "ICO", "PPM", "JPEG2000"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (8, 2), (512, 2048)])
def test_other_images_are_not_taken_for_dicom(kind, size, encode):
    assert not looks_like_dicom(encode(np.full(size, 8, np.uint8), kind)[:1024])


NO_DICOM = [b"", b"\x08", b"\x08\0\x05\0CS", b"a note, of more than eight bytes", b"(0008,0005) CS", bytes(200)]
NO_DICOM += [b"\x08\0\x05\0" * 30, b"\x02\0\0\0" * 30, b"\x08\0\x08\0\x08\0\0\0" + bytes(100), b"\0\x08\0\x05" * 30]


@pytest.mark.parametrize("start", NO_DICOM, ids=repr)
def test_other_files_are_not_taken_for_dicom(start):
    assert not looks_like_dicom(start)
