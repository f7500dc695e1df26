"""DICOM: what a file may cost in elements, items, values and inflated bytes."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from tests.faults.files import start_of_data_set

VALUES = np.uint16([[0, 49, 50, 100, 149, 150, 4095]])
WINDOW = {"WindowCenter": 100, "WindowWidth": 101}
SHOWN = [[0, 0, 1, 129, 254, 255, 255]]  # test_dicom.py says why


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_millions_of_elements_are_too_large(syntax, write_dicom, dicom_refusal):
    data = write_dicom(VALUES, syntax=syntax, **WINDOW)
    start = start_of_data_set(data)
    empty = struct.pack("<HH", 8, 0x2111) + (b"ST\0\0" if syntax == ExplicitVRLittleEndian else bytes(4))
    assert dicom_refusal(data[:start] + empty * (100 << 17) + data[start:]).code == "too_large"


@pytest.mark.parametrize("wanted", [(0x0040, 0xA730), (0x5200, 0x9230)], ids=["passed over", "functional groups"])
@pytest.mark.parametrize("length", ["undefined", "explicit"])
def test_millions_of_items_are_too_large_and_fifty_nested_ones_are_not(
    wanted, length, read_dicom, write_dicom, dicom_refusal
):
    data = write_dicom(VALUES, syntax=ImplicitVRLittleEndian, **WINDOW)
    place = data.index(struct.pack("<HHI", 0x7FE0, 0x10, 14))

    def within(content):
        size = len(content) if length == "explicit" else 0xFFFFFFFF
        end = b"" if length == "explicit" else struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return data[:place] + struct.pack("<HHI", *wanted, size) + content + end + data[place:]

    opened = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0xFFFFFFFF, *wanted, 0xFFFFFFFF)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE0DD, 0, 0xFFFE, 0xE00D, 0)
    assert read_dicom(within(opened * 50 + closed * 50)).tolist() == SHOWN
    items = within(struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 2_000_000)
    if length == "undefined" or wanted[0] == 0x5200:
        assert dicom_refusal(items).code == "too_large"
    else:
        assert read_dicom(items).tolist() == SHOWN


def test_a_value_or_a_frame_that_is_far_longer_than_it_can_be_is_too_large(write_dicom, dicom_refusal):
    zeros = bytes(70 << 20)
    data = write_dicom(VALUES, syntax=ImplicitVRLittleEndian, ModalityLUTSequence=[Dataset()])
    place = data.index(struct.pack("<HH", 0x0028, 0x3000))
    long = data[:place] + struct.pack("<HHI", 0x0028, 0x3000, len(zeros)) + zeros + data[place + 16 :]
    fragments = write_dicom(VALUES, syntax=RLELossless, fragment=zeros)
    tracemalloc.start()
    assert dicom_refusal(long).code == "too_large"
    assert dicom_refusal(fragments).code == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("undefined", [True, False])
def test_thousands_of_frames_with_groups_of_their_own_are_read(undefined, read_dicom, write_dicom):
    def group(index):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = 100 + index, 101
        group = Dataset()
        group.FrameVOILUTSequence = [window]
        group.FrameContentSequence = [Dataset()]
        for sequence in (group["FrameVOILUTSequence"], group["FrameContentSequence"]):
            sequence.is_undefined_length = undefined
            sequence.value[0].is_undefined_length_sequence_item = undefined
        group.is_undefined_length_sequence_item = undefined
        return group

    count = 5000
    frames = np.uint16(VALUES + np.arange(count)[:, None, None])
    groups = [group(index) for index in range(count)]
    data = write_dicom(frames, NumberOfFrames=count, Rows=1, Columns=7, PerFrameFunctionalGroupsSequence=groups)
    for index in (0, 1, count - 1):
        assert read_dicom(data, frame=index).tolist() == SHOWN


@pytest.mark.parametrize("count", [200, 900])
def test_a_film_that_deflates_well_is_inflated_up_to_a_limit(count, read_dicom, write_dicom, dicom_refusal):
    """Frames of a megapixel: 200 are below the limit of 256 MiB, 900 are not."""
    plain, meta = write_dicom(np.uint8([[1]]), **WINDOW), write_dicom(VALUES, syntax=DeflatedExplicitVRLittleEndian)
    meta = meta[: start_of_data_set(meta)]
    place = plain.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OB"))
    header = plain[start_of_data_set(plain) : place]
    for element, value in ((0x10, 1000), (0x11, 1000)):
        header = header.replace(
            struct.pack("<HH2sHH", 0x28, element, b"US", 2, 1), struct.pack("<HH2sHH", 0x28, element, b"US", 2, value)
        )
    header = header.replace(
        struct.pack("<HH", 0x28, 0x10), struct.pack("<HH2sH4sHH", 0x28, 8, b"IS", 4, b"%d " % count, 0x28, 0x10)
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(header + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, count * 1_000_000))]
    parts += [packer.compress(bytes([frame % 256]) * 1_000_000) for frame in range(count)]
    data = b"".join([meta, *parts, packer.flush()])
    assert len(data) < 2 << 20
    tracemalloc.start()
    if count == 200:
        assert (read_dicom(data, frame=150, window=[128, 256]) == 150).all()
    else:
        assert dicom_refusal(data).code == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600 << 20
