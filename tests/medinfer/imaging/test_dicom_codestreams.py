"""DICOM: compressed frames, by JPEG of every kind and JPEG 2000."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from medinfer.imaging import _isolation

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))


def color_picture(height=24, width=40):
    """A smooth one, which JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 4], axis=-1).astype(np.uint8)


# JPEG


def test_jpeg_of_8_bits_is_decoded_as_any_other_jpeg(read_levels, write_dicom, encode, pillow):
    jpeg = encode(RAMP, "JPEG")
    np.testing.assert_array_equal(read_levels(write_dicom(RAMP, syntax=JPEGBaseline8Bit, fragment=jpeg)), pillow(jpeg))


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
def test_colours_in_jfif_are_ycc_whatever_the_header_says(photometric, read_levels, write_dicom, encode, pillow):
    jpeg = encode(color_picture(), "JPEG", quality=95)
    data = write_dicom(color_picture(), syntax=JPEGBaseline8Bit, fragment=jpeg, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(read_levels(data), pillow(jpeg))


def without_jfif(jpeg):
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]


@pytest.mark.parametrize(("names", "photometric"), [(None, "RGB"), (b"RGB", "YBR_FULL_422"), (b"rgb", "YBR_FULL_422")])
def test_colours_are_those_of_the_components_names_or_else_of_the_header(
    names, photometric, read_levels, write_dicom, encode, pillow
):
    """The same samples, taken for YCbCr by any other decoder, and here for RGB."""
    jpeg = without_jfif(encode(color_picture(), "JPEG", quality=95, subsampling=0))
    as_ycc, header, scan = pillow(jpeg), b"\1\x11\0\2\x11\1\3\x11\1", b"\3\1\0\2\x11\3\x11"
    if names:
        assert jpeg.count(header) == jpeg.count(scan) == 1
        jpeg = jpeg.replace(header, b"".join(names[k : k + 1] + header[3 * k + 1 : 3 * k + 3] for k in range(3)))
        jpeg = jpeg.replace(scan, scan[:1] + b"".join(names[k : k + 1] + scan[2 * k + 2 : 2 * k + 3] for k in range(3)))
    color = {"syntax": JPEGBaseline8Bit, "fragment": jpeg, "PhotometricInterpretation": photometric}
    made = read_levels(write_dicom(color_picture(), **color))
    ycc = read_levels(write_dicom(made, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(ycc.astype(int) - as_ycc).max() <= 2


@pytest.mark.parametrize("change", ["half", "no end", "another size", "another colour", "no JPEG"])
def test_damaged_compressed_pixels_do_not_pass_for_a_missing_extra(change, write_dicom, dicom_refusal, encode):
    pixels = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    jpeg = encode(pixels, "JPEG")
    fragment = {
        "half": jpeg[: len(jpeg) // 2],
        "no end": jpeg[:-2],
        "another size": encode(pixels[:32], "JPEG"),
        "another colour": encode(np.dstack([pixels] * 3), "JPEG"),
        "no JPEG": b"garbage!" * 40,
    }[change]
    assert dicom_refusal(write_dicom(pixels, syntax=JPEGBaseline8Bit, fragment=fragment)).code == "corrupt"


def jpeg2000_header(width, height, components=1, bits=8):
    sizes = struct.pack(">HHIIIIIIIIH", 38 + 3 * components, 0, width, height, 0, 0, width, height, 0, 0, components)
    return b"\xff\x4f\xff\x51" + sizes + bytes([bits - 1, 1, 1]) * components + bytes(100) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (jpeg2000_header(60_000, 60_000), "corrupt"),
        (jpeg2000_header(4, 4, components=16_384), "corrupt"),
        (jpeg2000_header(4, 4, bits=38), "unsupported_dtype"),
        (jpeg2000_header(4, 4)[:30], "corrupt"),
    ],
    ids=["size", "components", "depth", "cut"],
)
def test_a_codestream_of_something_else_is_refused_before_it_is_decoded(header, code, write_dicom, dicom_refusal):
    data = write_dicom(np.zeros((4, 4), np.uint8), syntax=JPEG2000Lossless, fragment=header)
    assert dicom_refusal(data).code == code


# decoders that have to be installed


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2K])
def test_without_its_decoder_a_file_is_refused_with_the_line_to_install_it(
    syntax, write_dicom, dicom_refusal, monkeypatch
):
    jpeg = struct.pack(">2sBBHBHHBBBB", b"\xff\xd8", 0xFF, 0xC3, 11, 8, 4, 4, 1, 1, 0x11, 0) + bytes(9) + b"\xff\xd9"
    fragment = jpeg2000_header(4, 4) if syntax in (JPEG2000Lossless, HTJ2K) else jpeg
    data = write_dicom(np.zeros((4, 4), np.uint8), syntax=syntax, fragment=fragment)
    monkeypatch.setattr(_isolation, "find_spec", lambda _: None)
    error = dicom_refusal(data)
    assert (error.code, error.hint) == ("missing_extra", 'Install it: pip install "medonnx[dicom]"')


@pytest.mark.parametrize("codec", ["jpeg8", "jpegls", "jpeg2k", "htj2k"])
def test_a_codestream_is_decoded_by_what_the_extra_brings(codec, read_levels, write_dicom):
    syntax = {"jpeg8": JPEGExtended12Bit, "jpegls": JPEGLSLossless, "jpeg2k": JPEG2000Lossless, "htj2k": HTJ2K}[codec]
    samples = np.uint16(np.add.outer(np.arange(40) * 50, np.arange(48) * 40))
    options = {"jpeg8": {"bitspersample": 12, "level": 100}, "jpeg2k": {"level": 0, "reversible": True}}
    stream = getattr(imagecodecs, f"{codec}_encode")(samples, **options.get(codec, {}))
    window = {"window": [2048, 4096]}
    made = read_levels(write_dicom(samples, syntax=syntax, fragment=bytes(stream), BitsStored=12), **window)
    expected = read_levels(write_dicom(samples, BitsStored=12), **window)
    assert np.abs(made.astype(int) - expected).max() <= (1 if codec == "jpeg8" else 0)


def test_jpeg_of_12_bits_keeps_its_colors(read_levels, write_dicom):
    samples = np.floor(color_picture() * (4095 / 255) + 0.5).astype(np.uint16)
    stream = imagecodecs.jpeg8_encode(samples, bitspersample=12, level=100, subsampling="444")
    tags = {"BitsStored": 12, "syntax": JPEGExtended12Bit, "fragment": bytes(stream)}
    for photometric in ("YBR_FULL", "YBR_FULL_422"):
        made = read_levels(write_dicom(samples, PhotometricInterpretation=photometric, **tags))
        assert np.abs(made.astype(int) - color_picture()).max() <= 2


def test_a_codestream_that_kills_its_decoder_is_corrupt(dicom_refusal, read_levels, write_dicom):
    """318 bytes, at which GDCM ends the process."""
    stream = bytes.fromhex("ffd8ffc3000b08002800210101110907ffda")
    data = write_dicom(np.zeros((40, 33), np.uint8), syntax=JPEGLossless, fragment=stream)
    assert dicom_refusal(data).code == "corrupt"


def jpeg_2000(data, **tags):
    """The file, compressed; `tags` are changed afterwards."""
    dataset = dcmread(io.BytesIO(data))
    stream = imagecodecs.jpeg2k_encode(dataset.pixel_array, level=0, reversible=True, mct=dataset.SamplesPerPixel == 3)
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "pixels",
    [
        np.tile(RAMP, (5, 3)),
        np.random.default_rng(1).integers(0, 4096, (83, 70)).astype(np.uint16),
        np.random.default_rng(2).integers(-2000, 2000, (70, 83)).astype(np.int16),
        color_picture(70, 83),
    ],
    ids=["8 bits", "16 bits", "signed", "colour"],
)
def test_lossless_jpeg_2000_gives_what_was_encoded(pixels, read_levels, write_dicom):
    native = write_dicom(pixels, **({"WindowCenter": 1000, "WindowWidth": 3000} if pixels.ndim == 2 else {}))
    made, expected = read_levels(jpeg_2000(native)), read_levels(native)
    assert made.std() > 1
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("codec", ["jpegls", "jpeg2k", "signed jpeg2k", "htj2k", "ljpeg"])
@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 200, "WindowWidth": 1500}], ids=["no window", "window"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(3).integers(0, 4096, (40, 50)).astype(np.uint16),
        np.random.default_rng(4).integers(-2048, 2048, (40, 50)).astype(np.int16),
        np.random.default_rng(4).integers(-2048, 2048, (40, 50)).astype(np.int16) & 0x0FFF,
    ],
    ids=["unsigned", "signed", "signed, zeros above"],
)
def test_how_many_bits_are_stored_is_the_data_sets_to_say(codec, tags, photometric, values, read_levels, write_dicom):
    """As DCMTK and GDCM write it: 12 bits in a codestream of 16."""
    tags = {**tags, "BitsStored": 12, "PhotometricInterpretation": photometric}
    signed = codec.startswith("signed")
    samples = values.view(np.int16 if signed else np.uint16)
    options = {"jpeg2k": {"level": 0, "reversible": True}, "ljpeg": {"bitspersample": 16}}
    name = codec.removeprefix("signed ")
    stream = bytes(getattr(imagecodecs, f"{name}_encode")(samples, **options.get(name, {})))
    syntaxes = {"jpegls": JPEGLSLossless, "jpeg2k": JPEG2000Lossless, "htj2k": HTJ2KLossless, "ljpeg": JPEGLosslessSV1}
    made = write_dicom(values, syntax=syntaxes[name], fragment=stream, **tags)
    for window in ("file", "minmax", [100, 3000]):
        expected = read_levels(write_dicom(values, **tags), window=window)
        assert expected.std() > 1
        np.testing.assert_array_equal(read_levels(made, window=window), expected)


def test_more_bits_than_are_allocated_are_refused(write_dicom, dicom_refusal):
    native = write_dicom(np.random.default_rng(3).integers(0, 65536, (80, 90)).astype(np.uint16))
    assert dicom_refusal(jpeg_2000(native, BitsAllocated=8, BitsStored=8, HighBit=7)).code == "corrupt"
