"""DICOM: how the samples of a frame are stored, in layouts and fragments."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

COLOR = np.uint8([[[255, 0, 1], [2, 254, 3]]])
RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
FRAMES = np.uint8([[[1, 2]], [[3, 4]], [[5, 6]]])
NO_TABLE = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def color_picture(height=24, width=40):
    """A smooth one, which JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 4], axis=-1).astype(np.uint8)


# layouts


@pytest.mark.parametrize("frame", [0, 2])
def test_the_frame_asked_for_is_taken(frame, read_levels, write_dicom):
    data = write_dicom(FRAMES, NumberOfFrames=3, Rows=1, Columns=2)
    assert read_levels(data, frame=frame).tolist() == FRAMES[frame].tolist()


@pytest.mark.parametrize(("frames", "frame"), [(1, 1), (3, 3)])
def test_a_frame_that_is_not_there_is_refused(frames, frame, write_dicom, dicom_refusal):
    data = write_dicom(np.zeros((frames, 1, 2), np.uint8), NumberOfFrames=frames, Rows=1, Columns=2)
    assert dicom_refusal(data, frame=frame).code == "multi_frame"


def test_one_frame_of_a_film_longer_than_the_limit_is_read(read_levels, write_dicom):
    film = np.zeros((120, 1000, 1000), np.uint8)
    film[119] = 7
    data = write_dicom(film, NumberOfFrames=120, Rows=1000, Columns=1000)
    assert (read_levels(data, frame=119) == 7).all()


def test_a_film_that_ends_early_is_refused_whichever_frame_is_asked_for(write_dicom, dicom_refusal):
    assert dicom_refusal(write_dicom(FRAMES, NumberOfFrames=4, Rows=1, Columns=2)).code == "truncated"


def test_colour_is_read_as_rgb_whatever_the_layout_of_its_planes(read_levels, write_dicom):
    assert read_levels(write_dicom(COLOR)).tolist() == COLOR.tolist()
    planes = np.ascontiguousarray(np.moveaxis(COLOR, 2, 0))
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    assert read_levels(write_dicom(planes, Rows=1, Columns=2, **tags)).tolist() == COLOR.tolist()


def test_bytes_that_stand_in_big_endian_words_are_put_right(read_levels, write_dicom):
    frames = np.uint8([[[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 10]]])
    data = write_dicom(frames, syntax=ExplicitVRBigEndian, NumberOfFrames=2, Rows=1, Columns=5)
    data = data[:-10] + bytes([2, 1, 4, 3, 6, 5, 8, 7, 10, 9])
    data = data.replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10OW")
    assert [read_levels(data, frame=index).tolist() for index in (0, 1)] == frames.tolist()


def test_ybr_becomes_rgb_by_the_standards_formula(read_levels, write_dicom):
    levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15)]), axis=-1).reshape(18, -1, 3).astype(np.uint8)
    y, cb, cr = np.moveaxis(levels.astype(float), 2, 0)
    cb, cr = cb - 128, cr - 128
    green = y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    expected = np.floor(np.clip(np.stack([y + 1.402 * cr, green, y + 1.772 * cb], axis=-1), 0, 255) + 0.5)
    made = read_levels(write_dicom(levels, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_array_equal(made, expected)


def test_two_pixels_share_their_chroma_in_ybr_full_422(read_levels, write_dicom, dicom_refusal):
    samples = np.uint8([[76, 100, 85, 255], [150, 20, 44, 21]])  # Y Y Cb Cr
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    made = read_levels(write_dicom(samples, Rows=2, Columns=2, **tags))
    full = np.uint8([[[76, 85, 255], [100, 85, 255]], [[150, 44, 21], [20, 44, 21]]])
    assert made.tolist() == read_levels(write_dicom(full, PhotometricInterpretation="YBR_FULL")).tolist()
    assert dicom_refusal(write_dicom(full, PhotometricInterpretation="YBR_FULL_422")).code == "invalid_dicom"


def palette(entries, **tags):
    tags["PhotometricInterpretation"] = "PALETTE COLOR"
    for name, column in zip(("Red", "Green", "Blue"), np.array(entries, "<u2").T, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = column.tobytes()
    return tags


def test_a_palette_becomes_rgb_and_indices_beyond_it_its_last_colour(read_levels, write_dicom):
    data = write_dicom(np.uint8([[0, 1, 2, 255]]), **palette([[0, 0x8000, 0], [0xFF00, 0, 0x1234]]))
    assert read_levels(data).tolist() == [[[0, 0x80, 0], *[[0xFF, 0, 0x12]] * 3]]


def test_a_palette_of_8_bits_is_taken_as_it_is(read_levels, write_dicom):
    tags = palette([[0, 128, 0], [255, 0, 18]])
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"][2] = 8
        data = np.frombuffer(tags[f"{name}PaletteColorLookupTableData"], "<u2").astype(np.uint8)
        tags[f"{name}PaletteColorLookupTableData"] = data.tobytes()
    assert read_levels(write_dicom(np.uint8([[0, 1]]), **tags)).tolist() == [[[0, 128, 0], [255, 0, 18]]]


def test_a_palette_that_is_missing_or_short_is_refused(write_dicom, dicom_refusal):
    tags = palette([[0, 0, 0], [1, 1, 1]])
    del tags["BluePaletteColorLookupTableDescriptor"]
    assert dicom_refusal(write_dicom(np.uint8([[0, 1]]), **tags)).code == "invalid_dicom"
    tags = palette([[0, 0, 0], [1, 1, 1]], BluePaletteColorLookupTableDescriptor=[256, 0, 16])
    tags["BluePaletteColorLookupTableDescriptor"] = [256, 0, 16]
    assert dicom_refusal(write_dicom(np.uint8([[0, 1]]), **tags)).code == "invalid_dicom"


# fragments


def fragments(parts):
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in parts)


@pytest.fixture(scope="module")
def film(encode):
    """Three frames as JPEG of even length, and what each decodes to."""
    jpegs = [encode(np.full((16, 16), level, np.uint8), "JPEG") for level in (10, 100, 200)]
    return [jpeg + b"\0" * (len(jpeg) % 2) for jpeg in jpegs], [10, 100, 200]


def basic_table(jpegs):
    """In two fragments a frame, at the end of which no end mark stands."""
    return encapsulate([jpeg + bytes(20) for jpeg in jpegs], fragments_per_frame=2, has_bot=True)


def without_a_table(jpegs):
    return NO_TABLE + fragments(jpegs)


def by_their_ends(jpegs):
    return NO_TABLE + fragments([part for jpeg in jpegs for part in (jpeg[:100], jpeg[100:])])


@pytest.mark.parametrize("way", [basic_table, without_a_table, by_their_ends])
def test_the_frames_of_a_compressed_film_are_found(way, film, read_levels, write_dicom):
    jpegs, levels = film
    tags = {"NumberOfFrames": 3, "Rows": 16, "Columns": 16, "syntax": JPEGBaseline8Bit}
    data = write_dicom(np.zeros((16, 16), np.uint8), encapsulated=way(jpegs), **tags)
    for index, level in enumerate(levels):
        assert np.abs(read_levels(data, frame=index).astype(int) - level).max() <= 1


def test_a_compressed_film_of_too_few_frames_is_refused(film, write_dicom, dicom_refusal):
    blank = np.zeros((16, 16), np.uint8)
    data = write_dicom(blank, syntax=JPEGBaseline8Bit, encapsulated=by_their_ends(film[0]), NumberOfFrames=4)
    assert dicom_refusal(data, frame=3).code == "truncated"
    empty = write_dicom(blank, syntax=JPEGBaseline8Bit, encapsulated=NO_TABLE)
    assert dicom_refusal(empty).code == "corrupt"


def test_the_extended_offset_table_is_used(film, read_levels, write_dicom):
    """Its frames are in another order than their fragments."""
    jpegs, levels = film
    starts = np.cumsum([0, *(len(jpeg) + 8 for jpeg in jpegs)])[:3]
    tables = {
        "ExtendedOffsetTable": starts[::-1].astype("<u8").tobytes(),
        "ExtendedOffsetTableLengths": np.array([len(jpeg) for jpeg in jpegs[::-1]], "<u8").tobytes(),
    }
    tags = {"NumberOfFrames": 3, "syntax": JPEGBaseline8Bit, "encapsulated": without_a_table(jpegs), **tables}
    data = write_dicom(np.zeros((16, 16), np.uint8), **tags)
    assert [read_levels(data, frame=index)[0, 0] for index in range(3)] == levels[::-1]


# bits, and colors of 16


@pytest.mark.parametrize("shape", [(9, 10), (3, 3), (1, 7)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_samples_of_one_bit_are_read_wherever_their_frame_starts(shape, syntax, read_levels, write_dicom):
    bits = np.random.default_rng(1).integers(0, 2, (10, *shape)).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little")
    tags = {"BitsAllocated": 1, "BitsStored": 1, "Rows": shape[0], "Columns": shape[1], "NumberOfFrames": 10}
    data = write_dicom(np.append(packed, np.zeros(len(packed) % 2, np.uint8))[None], syntax=syntax, **tags)
    for frame in range(10):
        expected = (bits[frame] * 255).tolist()
        assert read_levels(data, frame=frame, window=[1, 1]).tolist() == expected
        assert read_levels(data, frame=frame, window="minmax").tolist() == (
            expected if bits[frame].any() and not bits[frame].all() else np.zeros(shape).tolist()
        )


@pytest.mark.parametrize(("stored", "levels"), [(16, [0, 1, 128, 255]), (12, [0, 8, 8, 255])])
def test_colors_of_16_bits_become_8_by_their_stored_bits(stored, levels, read_levels, write_dicom):
    # 255 v / 65535: 0.50, 128.0; of 12 bits 129 and 0x8080 & 0xFFF = 128: 8.03, 7.97
    samples = np.repeat(np.uint16([[0, 129, 0x8080, 0xFFFF]]), 3).reshape(1, 4, 3)
    data = write_dicom(samples, BitsStored=stored)
    assert read_levels(data).tolist() == [[[level] * 3 for level in levels]]
    packed = dcmread(io.BytesIO(data))
    packed.compress(RLELossless, encoding_plugin="pydicom")
    file = io.BytesIO()
    packed.save_as(file)
    assert read_levels(file.getvalue()).tolist() == [[[level] * 3 for level in levels]]


# RLE


@pytest.mark.parametrize("pixels", [RAMP, np.uint16([[0, 300, 65535], [7, 7, 7]]), color_picture(5, 7)], ids=str)
def test_run_lengths_are_undone(pixels, read_levels, write_dicom):
    native = write_dicom(pixels)
    dataset = dcmread(io.BytesIO(native))
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    file = io.BytesIO()
    dataset.save_as(file)
    assert read_levels(file.getvalue()).tolist() == read_levels(native).tolist()


@pytest.mark.parametrize(
    ("segment", "code"),
    [
        (b"\x81\x05" * 2000, "corrupt"),  # a bomb: 256 kB for 16 pixels
        (b"\x81\x05" * 20, "corrupt"),
        (b"\x0a" + b"\x05" * 11 + b"\x0a" + b"\x05" * 11, "corrupt"),
        (b"\xf1\x05", ""),
        (b"\xf1\x05\x00", ""),  # padded to an even length
        (b"\x80" * 500 + b"\xf1\x05", ""),  # 128 stands for nothing
        (b"\xf2\x05", "corrupt"),
        (b"\x0f\x01\x02", "corrupt"),
        (b"", "corrupt"),
    ],
    ids=["bomb", "long run", "long literals", "whole", "padded", "with gaps", "too short", "cut", "empty"],
)
def test_a_segment_of_run_lengths_gives_as_many_bytes_as_there_are_pixels(
    segment, code, read_levels, write_dicom, dicom_refusal
):
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + segment + b"\0" * (len(segment) % 2)
    data = write_dicom(np.zeros((4, 4), np.uint8), syntax=RLELossless, fragment=frame)
    if code:
        assert dicom_refusal(data).code == code
    else:
        assert (read_levels(data) == 5).all()
