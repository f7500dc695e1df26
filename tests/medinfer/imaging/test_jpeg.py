"""JPEG: strict where libjpeg would fill up what is missing."""

import contextlib
import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.faults.files import encode, noise

from medinfer.errors import ImageError
from medinfer.imaging._limits import SCANS, SKIPPED_BYTES

SCAN, END = b"\xff\xda", b"\xff\xd9"


def by_opencv(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR)
    return image if image.ndim == 2 else image[..., ::-1]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 30}])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 48), (101, 203)])
def test_an_intact_jpeg_gives_the_pixels_of_another_decoder(size, channels, options, read):
    data = encode(noise(*size, channels), "JPEG", **options)
    np.testing.assert_array_equal(read(data), by_opencv(data))


@pytest.mark.parametrize("mode", ["CMYK", "RGB kept"])
def test_other_colors_are_shown_as_rgb(mode, read):
    image = Image.fromarray(noise(40, 56))
    if mode == "CMYK":
        data = encode(image.convert("CMYK"), "JPEG", quality=95)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    else:
        data = encode(image, "JPEG", quality=95, keep_rgb=True)
        expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(read(data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_with_an_end_mark_is_noticed(share, progressive, code_of):
    whole = encode(noise(160, 200), "JPEG", progressive=progressive)
    assert code_of(whole[: int(len(whole) * share)] + END) == "corrupt"


@pytest.mark.parametrize("filler", ["zeros", "noise"])
def test_512_bytes_that_were_lost_in_the_middle_are_noticed(filler, read):
    """Nearly always: a JPEG has no checksum."""
    whole, random = bytearray(encode(noise(160, 200), "JPEG")), np.random.default_rng(0)
    start, unnoticed = whole.index(SCAN) + 20, 0
    for place in random.integers(start, len(whole) - 514, 40):
        data = bytearray(whole)
        data[place : place + 512] = bytes(512) if filler == "zeros" else random.bytes(512)
        with contextlib.suppress(ImageError):
            read(bytes(data))
            unnoticed += 1
    assert unnoticed <= 2


def test_a_jpeg_without_its_end_is_truncated(code_of):
    whole = encode(noise(40, 56), "JPEG")
    assert [code_of(whole[:-2]), code_of(whole[: len(whole) // 2])] == ["truncated"] * 2


def test_a_file_of_fill_bytes_is_refused_by_their_number(read, code_of):
    whole = encode(noise(40, 56), "JPEG")
    np.testing.assert_array_equal(read(whole[:2] + b"\xff" * 1000 + whole[2:]), read(whole))
    assert code_of(whole[:2] + b"\xff" * (SKIPPED_BYTES + 10) + whole[2:]) == "corrupt"


def test_a_jpeg_of_very_many_scans_is_refused(code_of):
    whole = encode(noise(40, 56), "JPEG", progressive=True)
    last = whole.rindex(SCAN)
    assert code_of(whole[:-2] + whole[last:-2] * SCANS + END) == "too_large"


@pytest.mark.parametrize("frame", [0xC3, 0xC7, 0xF7])
def test_a_lossless_jpeg_is_unsupported(frame, code_of):
    whole = encode(noise(40, 56, 1), "JPEG")
    assert code_of(whole.replace(b"\xff\xc0", bytes([0xFF, frame]), 1)) == "unsupported_format"


def test_12_bits_are_unsupported_and_not_corrupt(code_of):
    whole = encode(noise(40, 56, 1), "JPEG")
    start = whole.index(b"\xff\xc0")
    assert code_of(whole[: start + 4] + b"\x0c" + whole[start + 5 :]) == "unsupported_dtype"


def test_an_exif_block_may_follow_other_segments(read):
    pixels = noise(40, 56)
    plain = encode(pixels, "JPEG", quality=95)
    turned = encode(pixels, "JPEG", quality=95, orientation=6)
    text = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    other = b"\xff\xe1" + struct.pack(">H", 2 + len(text)) + text
    np.testing.assert_array_equal(read(turned[:2] + other + turned[2:]), np.rot90(read(plain), -1))
