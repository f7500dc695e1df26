from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from medinfer.errors import UsageError
from medinfer.imaging import preprocess, read_image

H, W = 13, 22  # neither a multiple of 8: the blocks of a JPEG stand over
LOSSLESS = {"lossless": True, "exact": True}
OVER = {"over": [10, 200, 90]}
ORIENTATIONS = range(1, 9)


@pytest.fixture(scope="module")
def read(input_spec):
    return lambda data, **fields: read_image(data, input_spec(**fields))


@pytest.fixture(scope="module")
def files(picture, encode, write_png, write_tiff):
    """name -> (file, the pixels in it), for every way of storing an image that is read."""
    gray, rgb, rgba = picture(H, W, 1), picture(H, W, 3), picture(H, W, 4)
    gray16, rgb16 = picture(H, W, 1, dtype=np.uint16), picture(H, W, 3, dtype=np.uint16)
    palette = Image.fromarray(rgb).quantize(16)
    bits = Image.fromarray(np.where(gray > 100, np.uint8(255), np.uint8(0))).convert("1")
    cmyk = Image.fromarray(rgb).convert("CMYK")
    colors, black_white = np.array(palette.convert("RGB")), np.array(bits.convert("L"))

    def jpeg(array, **options):
        data = encode(array, "JPEG", **options)
        return data, np.array(Image.open(io.BytesIO(data)))

    def lzw(array):
        shown = array[..., ::-1] if array.ndim == 3 else array
        return cv2.imencode(".tiff", shown, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes(), array

    upside_down = encode(rgb[::-1], "BMP")

    return {
        "png gray": (encode(gray, "PNG"), gray),
        "png rgb": (encode(rgb, "PNG"), rgb),
        "png palette": (encode(palette, "PNG"), colors),
        "png 1-bit": (encode(bits, "PNG"), black_white),
        "png rgba": (encode(Image.fromarray(rgba), "PNG"), rgba[..., :3]),
        "png gray-alpha": (write_png(np.dstack([gray, picture(H, W, 1, seed=1)])), gray),
        "png gray 16-bit": (encode(gray16, "PNG"), gray16),
        "png rgb 16-bit": (write_png(rgb16), rgb16),
        "png rgba 16-bit": (write_png(np.dstack([rgb16, gray16])), rgb16),
        "png gray-alpha 16-bit": (write_png(np.dstack([gray16, gray16 // 2])), gray16),
        "jpeg 4:4:4": jpeg(rgb, subsampling=0),
        "jpeg 4:2:2": jpeg(rgb, subsampling=1),
        "jpeg 4:2:0": jpeg(rgb, subsampling=2),
        "jpeg coarse": jpeg(rgb, quality=20),
        "jpeg progressive": jpeg(rgb, progressive=True),
        "jpeg gray": jpeg(gray),
        "jpeg gray progressive": jpeg(gray, progressive=True),
        "bmp rgb": (encode(rgb, "BMP"), rgb),
        "bmp gray": (encode(gray, "BMP"), gray),
        "bmp palette": (encode(palette, "BMP"), colors),
        "bmp 1-bit": (encode(bits, "BMP"), np.dstack([black_white] * 3)),
        "bmp from the top": (upside_down[:22] + struct.pack("<i", -H) + upside_down[26:], rgb),
        "tiff gray": (encode(gray, "TIFF"), gray),
        "tiff gray lzw": (encode(gray, "TIFF", compression="tiff_lzw"), gray),
        "tiff rgb": (encode(rgb, "TIFF"), rgb),
        "tiff rgb lzw": (encode(rgb, "TIFF", compression="tiff_lzw"), rgb),
        "tiff rgb deflate": (encode(rgb, "TIFF", compression="tiff_deflate"), rgb),
        "tiff palette": (encode(palette, "TIFF"), colors),
        "tiff 1-bit": (encode(bits, "TIFF"), black_white),
        "tiff cmyk": (encode(cmyk, "TIFF"), np.array(cmyk.convert("RGB"))),
        "tiff gray inverted": (write_tiff(255 - gray, photometric=0), gray),
        "tiff gray 16-bit": (encode(gray16, "TIFF"), gray16),
        "tiff gray 16-bit big-endian": (write_tiff(gray16, order=">"), gray16),
        "tiff gray 16-bit lzw": lzw(gray16),
        "tiff rgb 16-bit": (write_tiff(rgb16), rgb16),
        "tiff rgb 16-bit big-endian": (write_tiff(rgb16, order=">"), rgb16),
        "tiff rgb 16-bit lzw": lzw(rgb16),
        "tiff rgba opaque": (encode(Image.fromarray(rgb).convert("RGBA"), "TIFF"), rgb),
        "tiff rgba 16-bit": (write_tiff(np.dstack([rgb16, gray16]), extra=2), rgb16),
        "webp rgb": (encode(rgb, "WEBP", **LOSSLESS), rgb),
        "webp gray": (encode(gray, "WEBP", **LOSSLESS), np.dstack([gray] * 3)),
        "webp rgba": (encode(Image.fromarray(rgba), "WEBP", **LOSSLESS), rgba[..., :3]),
    }


KINDS = {
    "png": "gray,rgb,palette,1-bit,rgba,gray-alpha,gray 16-bit,rgb 16-bit,rgba 16-bit,gray-alpha 16-bit",
    "jpeg": "4:4:4,4:2:2,4:2:0,coarse,progressive,gray,gray progressive",
    "bmp": "rgb,gray,palette,1-bit,from the top",
    "tiff": "gray,gray lzw,rgb,rgb lzw,rgb deflate,palette,1-bit,cmyk,gray inverted,gray 16-bit,"
    "gray 16-bit big-endian,gray 16-bit lzw,rgb 16-bit,rgb 16-bit big-endian,rgb 16-bit lzw,rgba opaque,rgba 16-bit",
    "webp": "rgb,gray,rgba",
}
NAMES = [f"{suffix} {kind}" for suffix, kinds in KINDS.items() for kind in kinds.split(",")]
every_file = pytest.mark.parametrize("name", NAMES)


def test_every_way_of_storing_an_image_is_tried(files):
    assert set(NAMES) == set(files)


@every_file
def test_a_file_its_bytes_and_the_array_of_it_are_the_same_picture(name, files, read, input_spec, tmp_path):
    data, pixels = files[name]
    path = tmp_path / "image.bin"  # what a file is, its content says, and not its name
    path.write_bytes(data)
    image = read(data)
    assert image.dtype == pixels.dtype
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, pixels)
    for source in (path, str(path), bytearray(data), memoryview(data), pixels):
        np.testing.assert_array_equal(read(source), image)
    for color in ("rgb", "gray"):
        spec = input_spec(color=color, interpolation="area")
        np.testing.assert_array_equal(preprocess(image, spec), preprocess(pixels, spec))


@every_file
def test_the_gray_contract_is_the_gray_of_the_decoded_colour_picture(name, files, read, input_spec):
    data, pixels = files[name]
    spec = input_spec(color="gray", height=H, width=W)
    color = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels
    color = color if color.dtype == np.uint8 else (color // 256).astype(np.uint8)
    expected = cv2.cvtColor(color, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(preprocess(read(data, color="gray"), spec)[..., 0], expected)


def test_a_cmyk_jpeg_becomes_rgb(read, encode, picture, pillow):
    data = encode(Image.fromarray(picture(H, W)).convert("CMYK"), "JPEG")
    assert np.abs(read(data).astype(int) - pillow(data, "RGB")).max() <= 1


@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), options=st.sampled_from([(0, 95), (1, 80), (2, 50)]))
def test_a_colour_jpeg_has_the_pixels_that_pillow_sees(shape, options, read, picture, encode, pillow):
    data = encode(picture(*shape), "JPEG", subsampling=options[0], quality=options[1])
    np.testing.assert_array_equal(read(data), pillow(data))


# EXIF


def turned(array, orientation):
    """A picture stored as `array` as it is to be seen, in words: rows and columns of the EXIF standard."""
    return {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
        8: lambda a: np.rot90(a),
    }[orientation](array)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_is_upright_whatever_its_orientation_tag(kind, mode, orientation, read, encode, picture, pillow):
    array = picture(H, W, len(mode))
    options = LOSSLESS if kind == "WEBP" else {}
    data = encode(array, kind, orientation=orientation, **options)
    image = read(data)
    expected = pillow(data)
    np.testing.assert_array_equal(image if image.ndim == expected.ndim else image[..., 0], expected)
    if kind != "JPEG":
        shown = turned(array, orientation)
        np.testing.assert_array_equal(expected, shown if expected.ndim == shown.ndim else np.dstack([shown] * 3))


def exif(orientation, order="<"):
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_picture_is_upright_too(channels, orientation, read, picture, write_png, write_tiff):
    array = picture(H, W, channels, dtype=np.uint16)
    expected = turned(array, orientation)
    for data in (write_png(array, before=[(b"eXIf", exif(orientation))]), write_tiff(array, t274=orientation)):
        np.testing.assert_array_equal(read(data), expected)


def composed(rgba, background):
    top = np.iinfo(rgba.dtype).max
    weight = rgba[..., 3:].astype(np.longdouble) / top
    behind = np.array(background, np.longdouble) * top / 255
    return np.floor(rgba[..., :3] * weight + behind * (1 - weight) + 0.5).astype(rgba.dtype)


# 0 and from 9 on mean nothing: such a picture is shown as it is stored.
@pytest.mark.parametrize("orientation", [*ORIENTATIONS, 0, 9, 255])
@pytest.mark.parametrize("after", [False, True], ids=["tag before the pixels", "tag after the pixels"])
@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
def test_alpha_and_orientation_go_together(alpha, after, orientation, read, picture, write_png):
    rgba = picture(H, W, 4)
    chunk = [(b"eXIf", exif(orientation, "<" if orientation % 2 else ">"))]
    data = write_png(rgba, after=chunk) if after else write_png(rgba, before=chunk)
    stored = rgba[..., :3] if alpha == "drop" else composed(rgba, alpha["over"])
    expected = turned(stored, orientation if 1 <= orientation <= 8 else 1)
    np.testing.assert_array_equal(read(data, alpha=alpha), expected)


# Some writers keep the six bytes that stand before the block in a JPEG; Pillow reads both ways.
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"], ids=["bare", "prefixed"])
@pytest.mark.parametrize("alpha", ["drop", OVER], ids=["drop", "over"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_exif_block_counts_with_and_without_its_prefix(
    kind, alpha, prefix, read, picture, write_png, encode, pillow
):
    rgba, block = picture(H, W, 4), prefix + exif(6)
    if kind == "PNG":
        data = write_png(rgba, before=[(b"eXIf", block)])
    else:
        plain = encode(Image.fromarray(rgba), "WEBP", orientation=6, **LOSSLESS)
        start = plain.index(b"EXIF")
        data = plain[:start] + b"EXIF" + struct.pack("<I", len(block)) + block
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    expected = turned(rgba, 6)
    np.testing.assert_array_equal(pillow(data), expected)
    color = expected[..., :3] if alpha == "drop" else composed(expected, OVER["over"])
    np.testing.assert_array_equal(read(data, alpha=alpha), color)


# alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_composed_onto_the_background(dtype, read, picture, write_png):
    rgba = picture(H, W, 4, dtype=dtype)
    rgba[0, :, 3], rgba[1, :, 3] = 0, np.iinfo(dtype).max
    np.testing.assert_array_equal(read(write_png(rgba), alpha=OVER), composed(rgba, OVER["over"]))


@pytest.mark.parametrize("orientation", [None, *ORIENTATIONS])
def test_alpha_of_a_webp_is_composed(orientation, read, picture, encode):
    rgba = picture(H, W, 4)
    tag = {"orientation": orientation} if orientation else {}  # without it the file is laid out otherwise
    data = encode(Image.fromarray(rgba), "WEBP", **tag, **LOSSLESS)
    np.testing.assert_array_equal(read(data, alpha=OVER), turned(composed(rgba, OVER["over"]), orientation or 1))


def test_a_gray_picture_with_alpha_is_composed_onto_a_coloured_background(read, picture, write_png):
    gray, alpha = picture(H, W, 1), picture(H, W, 1, seed=1)
    expected = composed(np.dstack([gray] * 3 + [alpha]), OVER["over"])
    np.testing.assert_array_equal(read(write_png(np.dstack([gray, alpha])), alpha=OVER), expected)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_of_a_png_is_composed(mode, read, picture, encode, pillow):
    image = Image.fromarray(picture(H, W)).quantize(8) if mode == "P" else Image.fromarray(picture(H, W)).convert(mode)
    color = image.getpixel((3, 2))
    data = encode(image, "PNG", transparency=color)
    np.testing.assert_array_equal(read(data), np.array(image.convert("L" if mode == "L" else "RGB")))
    rgba = pillow(data, "RGBA")
    assert rgba[2, 3, 3] == 0
    np.testing.assert_array_equal(read(data, alpha=OVER), composed(rgba, OVER["over"]))


@pytest.mark.parametrize(
    "name", ["png gray", "png rgb", "jpeg 4:2:0", "tiff rgb 16-bit", "webp rgb", "tiff rgba opaque"]
)
def test_a_background_changes_nothing_where_nothing_is_transparent(name, files, read):
    data, pixels = files[name]
    np.testing.assert_array_equal(read(data, alpha=OVER), pixels)


# arrays


def test_an_array_in_opencvs_order_must_be_named(read, input_spec, picture):
    rgb = picture(H, W)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    spec = input_spec()
    np.testing.assert_array_equal(read_image(bgr, spec, color="bgr"), rgb)
    assert (read_image(bgr, spec) != rgb).any()
    gray = picture(H, W, 1)
    np.testing.assert_array_equal(read_image(gray, spec, color="bgr"), gray)


def test_a_view_with_strides_is_read_as_what_it_shows(read, picture):
    array = picture(2 * H, 2 * W)
    for view in (array[::2, ::-2], array[..., ::-1], np.asfortranarray(array)):
        image = read(view)
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, np.array(view, order="C"))


@pytest.mark.parametrize("color", ["xyz", "RGB", "", None])
def test_another_channel_order_is_a_usage_error(color, input_spec, picture):
    with pytest.raises(UsageError, match="not one of rgb, bgr"):
        read_image(picture(H, W), input_spec(), color=color)
