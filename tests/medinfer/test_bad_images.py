from __future__ import annotations

import errno
import os
import socket
import struct
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from medinfer.errors import IMAGE_CODES, ImageError
from medinfer.imaging import MAX_FILE_BYTES, read_image

H, W = 30, 41
LOSSLESS = {"lossless": True, "exact": True}
OVER = {"over": [10, 200, 90]}


@pytest.fixture(scope="module")
def read(input_spec):
    return lambda source, max_pixels=10**6, **fields: read_image(source, input_spec(**fields), max_pixels=max_pixels)


@pytest.fixture(scope="module")
def refusal(read):
    def error_of(source, **fields):
        with pytest.raises(ImageError) as caught:
            read(source, **fields)
        assert str(caught.value)
        return caught.value

    return error_of


@pytest.fixture(scope="module")
def good(picture, encode, write_png, write_tiff):
    rgb, gray = picture(H, W), picture(H, W, 1)
    rgba = Image.fromarray(picture(H, W, 4))
    return {
        "png": encode(rgb, "PNG"),
        "png gray": encode(gray, "PNG"),
        "png palette": encode(Image.fromarray(rgb).quantize(8), "PNG"),
        "png rgba": encode(rgba, "PNG"),
        "png 16-bit": write_png(picture(H, W, 3, dtype=np.uint16)),
        "jpeg": encode(rgb, "JPEG"),
        "jpeg gray": encode(gray, "JPEG"),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True, orientation=6),
        "bmp": encode(rgb, "BMP"),
        "bmp palette": encode(Image.fromarray(rgb).quantize(8), "BMP"),
        "webp": encode(rgb, "WEBP", **LOSSLESS),
        "webp lossy": encode(rgb, "WEBP", quality=80),
        "webp rgba": encode(rgba, "WEBP", orientation=3, **LOSSLESS),
        "tiff": encode(rgb, "TIFF"),
        "tiff lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(gray, "TIFF", compression="tiff_deflate"),
        "tiff 16-bit": write_tiff(picture(H, W, 3, dtype=np.uint16)),
    }


GOOD = ["png", "png gray", "png palette", "png rgba", "png 16-bit", "jpeg", "jpeg gray", "jpeg progressive", "bmp"]
GOOD += ["bmp palette", "webp", "webp lossy", "webp rgba", "tiff", "tiff lzw", "tiff deflate", "tiff 16-bit"]


def test_every_format_is_tried(good):
    assert list(good) == GOOD


# damage
@pytest.mark.parametrize("keep", [0.03, 0.2, 0.5, 0.8, 0.95, 0.99, -40, -12, -4, -1])
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
def test_a_file_cut_off_anywhere_is_refused(name, keep, alpha, good, refusal):
    data = good[name]
    cut = data[: keep if keep < 0 else int(len(data) * keep)]
    error = refusal(cut, alpha=alpha)
    assert error.code in ("truncated", "corrupt")
    assert error.code == "truncated" or name.startswith("tiff") or keep < 0.2


@pytest.mark.parametrize("name", GOOD)
def test_bytes_after_the_end_of_a_picture_do_not_matter(name, good, read):
    np.testing.assert_array_equal(read(good[name] + bytes(100)), read(good[name]))


@pytest.mark.parametrize("name", [name for name in GOOD if name.startswith("png")])
@pytest.mark.parametrize("place", [0.3, 0.6])
def test_a_png_with_a_wrong_checksum_is_corrupt(name, place, good, refusal):
    data = bytearray(good[name])
    data[int(len(data) * place)] ^= 0x10
    assert refusal(data).code == "corrupt"


@given(
    name=st.sampled_from(GOOD),
    alpha=st.sampled_from(["drop", OVER]),
    # Most damage of interest is to the header.
    changes=st.lists(st.tuples(st.integers(0, 120) | st.integers(0, 10**5), st.integers(0, 255)), max_size=6),
    keep=st.just(1.0) | st.floats(0, 1),
)
@settings(max_examples=300)
def test_a_damaged_file_gives_pixels_or_an_image_error_and_nothing_else(name, alpha, changes, keep, good, read):
    data = bytearray(good[name])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        image = read(bytes(data[: int(len(data) * keep)]), max_pixels=200_000, alpha=alpha)
    except ImageError as error:
        found = error.code
    else:
        found = "pixels"
        assert image.dtype in (np.uint8, np.uint16)
        assert image.size > 0
        assert image.shape[2:] in ((), (3,))
    assert found in ("pixels", *IMAGE_CODES)


# not an image, or not one that is supported


@pytest.mark.parametrize(
    "data", [b"\n", b"a diary, not a picture", b"GIF89a" + bytes(50), b"%PDF-1.7", bytes(200), b"RIFF\0\0\0\0WAVE"]
)
def test_what_is_no_picture_is_said_not_to_be_one_whatever_its_name(data, refusal, tmp_path):
    (tmp_path / "scan.png").write_bytes(data)
    error = refusal(tmp_path / "scan.png")
    assert error.code == "not_an_image"
    assert "Supported: PNG, JPEG" in error.hint


def test_an_empty_file_is_said_to_be_empty(refusal, tmp_path):
    (tmp_path / "scan.png").touch()
    assert refusal(tmp_path / "scan.png").code == refusal(b"").code == "empty_file"


@pytest.fixture
def no_decoding(monkeypatch):
    """Decoding anything fails the test."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))


def sized(data, layout, *places):
    """Write 30000 into the places where a header has its width and height."""
    data = bytearray(data)
    for place in places:
        struct.pack_into(layout, data, place, 30_000)
    return bytes(data)


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp", "webp", "webp rgba", "tiff"])
def test_a_small_file_that_promises_a_huge_picture_is_refused_by_its_header(
    name, good, refusal, write_png, write_tiff, no_decoding
):
    start_of_frame = good["jpeg"].index(b"\xff\xc0")
    bombs = {
        "png": write_png(np.zeros((1, 1), np.uint8), size=(30_000, 30_000)),
        "jpeg": sized(good["jpeg"], ">H", start_of_frame + 5, start_of_frame + 7),
        "bmp": sized(good["bmp"], "<i", 18, 22),
        "webp": good["webp"][:21] + b"\xff\xff\xff\x0f" + good["webp"][25:],
        "webp rgba": good["webp rgba"][:24] + b"\xff\xff\x00\xff\xff\x00" + good["webp rgba"][30:],
        "tiff": write_tiff(np.zeros((1, 1), np.uint8), t256=30_000, t257=30_000),
    }
    assert refusal(bombs[name], max_pixels=100_000_000).code == "too_large"


@pytest.mark.parametrize("name", GOOD)
def test_the_limit_of_pixels_is_exact(name, good, read, refusal):
    assert read(good[name], max_pixels=H * W).size
    assert refusal(good[name], max_pixels=H * W - 1).code == "too_large"


def test_a_huge_file_is_refused_unread(refusal, tmp_path):
    with open(tmp_path / "scan.tiff", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: it takes no room
    assert refusal(file.name).code == "too_large"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_pictures_in_one_file_are_refused(kind, encode, picture, refusal, no_decoding):
    pages = [Image.fromarray(picture(H, W, seed=seed)) for seed in range(3)]
    assert refusal(encode(pages[0], kind, save_all=True, append_images=pages[1:])).code == "multi_frame"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32, np.uint32, np.int16, np.int8])
def test_samples_other_than_unsigned_8_or_16_bits_are_refused(dtype, write_tiff, refusal):
    assert refusal(write_tiff(np.ones((H, W), dtype))).code == "unsupported_dtype"


# Transparency: colors that were multiplied by it are lost, and refused.


@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_tiff_with_unassociated_alpha_is_read_as_a_png_is(compression, alpha, encode, picture, read):
    rgba = Image.fromarray(picture(H, W, 4))
    as_png = read(encode(rgba, "PNG"), alpha=alpha)
    np.testing.assert_array_equal(read(encode(rgba, "TIFF", compression=compression), alpha=alpha), as_png)


@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
@pytest.mark.parametrize("extra", [None, 0, 1])
def test_a_tiff_with_premultiplied_alpha_is_refused_unless_it_is_opaque(
    extra, alpha, write_tiff, picture, refusal, read
):
    rgba = picture(H, W, 4)
    error = refusal(write_tiff(rgba, extra=extra), alpha=alpha)
    assert error.code == "unsupported_format"
    assert "Convert it to PNG" in error.hint
    rgba[..., 3] = 255
    np.testing.assert_array_equal(read(write_tiff(rgba, extra=extra), alpha=alpha), rgba[..., :3])


def right_or_refused(read, data, *answers, alpha="drop"):
    """Whether a file is refused as unsupported, or read as one of some arrays (of 3 channels, within a level)."""
    try:
        image = read(data, alpha=alpha)
    except ImageError as error:
        return error.code == "unsupported_format"
    shown = np.dstack([image] * 3) if image.ndim == 2 else image
    return any(image.dtype == answer.dtype and np.abs(shown - answer.astype(float)).max() <= 1 for answer in answers)


def composed(color, transparency):
    top = np.iinfo(color.dtype).max
    weight = transparency[..., None] / top
    return (color * weight + np.array(OVER["over"]) * (top // 255) * (1 - weight)).round().astype(color.dtype)


# Only 2 says that the last channel is transparency; without it that channel may be dropped as well as composed.
@pytest.mark.parametrize("extra", [None, 0, 2], ids=["untold", "unspecified", "transparency"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
def test_a_tiff_with_one_channel_more_is_refused_or_right(dtype, channels, extra, alpha, write_tiff, picture, read):
    stored, transparency = picture(H, W, channels, dtype=dtype), picture(H, W, 1, dtype=dtype, seed=1)
    color = np.dstack([stored] * 3) if channels == 1 else stored
    answers = [composed(color, transparency)] if alpha == OVER else [color]
    if extra != 2:
        answers.append(color)
    assert right_or_refused(read, write_tiff(np.dstack([stored, transparency]), extra=extra), *answers, alpha=alpha)


def test_a_bmp_with_transparency_is_refused_or_composed(picture, pillow, read):
    bgra = picture(H, W, 4)
    data = cv2.imencode(".bmp", bgra)[1].tobytes()
    rgba = pillow(data)
    assert rgba.shape[2] == 4
    assert right_or_refused(read, data, composed(rgba[..., :3], rgba[..., 3]), alpha=OVER)


def test_a_16_bit_tiff_whose_zero_is_white_is_refused_or_right(write_tiff, picture, read):
    gray = picture(H, W, 1, dtype=np.uint16)
    assert right_or_refused(read, write_tiff(65535 - gray, photometric=0), np.dstack([gray] * 3))


# paths


def test_a_path_to_nothing_is_not_found(refusal, tmp_path):
    assert refusal(str(tmp_path / "missing.png")).code == "not_found"


@pytest.mark.usefixtures("no_waiting")
def test_a_fifo_is_refused_without_waiting_for_a_writer(refusal, tmp_path):
    os.mkfifo(tmp_path / "scan.png")
    assert refusal(tmp_path / "scan.png").code == "not_regular_file"


def test_a_folder_a_device_and_a_socket_are_no_regular_files(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("scan.png")
        for path in (tmp_path, "/dev/null", "scan.png"):
            assert refusal(path).code == "not_regular_file"


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, "permission_denied"), (errno.EIO, "os_error")])
def test_a_file_that_cannot_be_read_says_why(number, code, refusal, monkeypatch):
    # Root, as whom tests often run, may read everything.
    monkeypatch.setattr(os, "open", Mock(side_effect=OSError(number, os.strerror(number))))
    assert refusal("scan.png").code == code


@pytest.mark.parametrize("path", ["scan\0.png", "x" * 5000, "\ud800.png"], ids=["null byte", "too long", "surrogate"])
def test_a_path_that_the_system_cannot_hold_is_an_error_of_that_image(path, refusal):
    assert refusal(path).code == "os_error"


# arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, np.bool_])
def test_an_array_of_another_type_is_refused_with_a_hint(dtype, refusal):
    error = refusal(np.zeros((4, 4, 3), dtype))
    assert error.code == "unsupported_dtype"
    assert "as they were decoded" in error.hint


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1), (4, 4, 2), (3, 4, 4), (1, 4, 4, 3), (4,), ()])
def test_an_array_of_another_shape_is_refused(shape, refusal):
    assert refusal(np.zeros(shape, np.uint8)).code == "unsupported_format"


@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 3), (0, 0, 3)])
def test_an_array_without_pixels_is_refused(shape, refusal):
    assert refusal(np.zeros(shape, np.uint8)).code == "corrupt"


def test_an_array_over_the_limit_of_pixels_is_refused(refusal):
    assert refusal(np.zeros((10, 10), np.uint8), max_pixels=99).code == "too_large"
