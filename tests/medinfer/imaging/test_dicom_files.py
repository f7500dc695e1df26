"""Real DICOM files, against other decoders: pydicom's own, and those of MEDONNX_DATA (by default ../shared/data)."""

from __future__ import annotations

import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import pixel_array
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_windowing

import medinfer
from medinfer.errors import ImageError

PYDICOMS = Path(pydicom.__file__).parent / "data/test_files"
DATA = Path(os.environ.get("MEDONNX_DATA", Path(__file__).parents[4] / "shared/data")) / "dicom"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA} (set MEDONNX_DATA)")

# Each file of pydicom's that is refused: the code, and why.
NO_IMAGE = "no image: a report, a plan, a directory or a list of elements"
NOT_DICOM = "not a DICOM file"
REFUSED = {
    "badVR": ("invalid_dicom", "a number of frames that is none"),
    "JPEG2000-embedded-sequence-delimiter": ("corrupt", "the width in the codestream is overwritten"),
    "MR_truncated": ("truncated", "62 bytes of the pixel data are missing"),
    "rtplan_truncated": ("truncated", "an element goes on behind the end of the file"),
    "meta_missing_tsyntax": ("invalid_dicom", "file meta information without a transfer syntax"),
    "nested_priv_SQ": ("invalid_dicom", "pixel data without rows and columns"),
    "no_meta": ("not_an_image", "a byte stands before the first element"),
    "no_meta_group_length": ("unsupported_format", NO_IMAGE),
}
DOSES = [f"rtdose{kind}{frames}" for kind in ("", "_expb", "_rle") for frames in ("", "_1frame")]
REFUSED |= dict.fromkeys(DOSES, ("unsupported_dtype", "32 bits"))
REFUSED |= dict.fromkeys(["SC_rgb_rle_32bit", "SC_rgb_rle_32bit_2frame"], ("unsupported_dtype", "32-bit colors"))
REFUSED |= dict.fromkeys(["README", "crayons", "rtstruct.dump", "rtplan.dump"], ("not_an_image", NOT_DICOM))
REFUSED |= dict.fromkeys(["test1", "test_PN", "zipMR"], ("not_an_image", NOT_DICOM))
REFUSED |= dict.fromkeys(["UN_sequence", "empty_charset_LEI", "priv_SQ"], ("unsupported_format", NO_IMAGE))
REFUSED |= dict.fromkeys(["reportsi", "reportsi_with_empty_number_tags", "test-SR"], ("unsupported_format", NO_IMAGE))
REFUSED |= dict.fromkeys(["rtplan", "rtstruct", "waveform_ecg"], ("unsupported_format", NO_IMAGE))
REFUSED |= dict.fromkeys(["ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta"], ("unsupported_format", NO_IMAGE))
OF_12_BITS = ("JPGExtended.dcm", "JPEG-lossy.dcm")
"""Files that no decoder of pydicom's decodes without a GPL-licensed one; GDCM does."""


def refusal_of(path):
    """The code and the reason with which a file of pydicom's is refused; None where it is read."""
    if path.name.startswith("DICOMDIR") or "TINY_ALPHA" in path.parts:
        return REFUSED["README"] if path.name == "README" else ("unsupported_format", NO_IMAGE)
    return REFUSED.get(path.name) or REFUSED.get(path.stem)


def dicom_files(folder):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                yield path


@pytest.fixture(autouse=True)
def _quiet():
    """What pydicom says of files that it is asked to read for comparison is not of interest."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def decoded_by_gdcm(path):
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    columns, rows = reader.GetImage().GetDimensions()
    buffer = reader.GetImage().GetBuffer().encode("utf-8", errors="surrogateescape")
    return np.frombuffer(buffer, "<u2").reshape(rows, columns)


def shown_by_pydicom(path, **options):
    """The first frame as pydicom decodes, rescales and windows it, scaled to 8 bits."""
    dataset = pydicom.dcmread(path)
    pixels = decoded_by_gdcm(path) if Path(path).name in OF_12_BITS else pixel_array(dataset, index=0, **options)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(pixels, dataset)
        return (colors >> 8 if colors.dtype == np.uint16 else colors).astype(np.uint8)
    if dataset.SamplesPerPixel == 3:
        return np.floor(pixels * (255 / (2**dataset.BitsStored - 1)) + 0.5)
    values = apply_modality_lut(pixels, dataset).astype(float)
    if dataset.get("WindowWidth"):
        half = 1 << (dataset.BitsStored - 1)
        ends = np.array([-half, half - 1] if dataset.PixelRepresentation else [0, 2 * half - 1])
        low, high = apply_modality_lut(ends, dataset)
        values = apply_windowing(values, dataset)
    else:
        inside = values[pixels != dataset.get("PixelPaddingValue", -1 << 20)]
        low, high = inside.min(), inside.max()
    share = np.clip((values - low) / (high - low), 0, 1)
    return np.floor(255 * (1 - share if dataset.PhotometricInterpretation == "MONOCHROME1" else share) + 0.5)


ALL = sorted(path for path in PYDICOMS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(PYDICOMS)))
def test_each_file_of_pydicoms_is_shown_as_pydicom_shows_it_or_refused_by_its_code(path, read_dicom):
    refusal = refusal_of(path)
    if refusal:
        with pytest.raises(ImageError) as caught:
            read_dicom(path)
        assert caught.value.code == refusal[0]
        return
    np.testing.assert_array_equal(read_dicom(path), shown_by_pydicom(path))


def test_the_files_of_pydicoms_are_all_there():
    assert len(ALL) == 176
    assert sum(refusal_of(path) is None for path in ALL) == 82


@needs_data
@pytest.mark.data
def test_a_model_answers_for_every_gray_file(tiny_model, read_dicom):
    seen = list(medinfer.load(tiny_model, provider="cpu").predict_many(medinfer.find_images(DATA / "gray")))
    assert len(seen) == 10
    assert [found.error for found in seen] == [None] * 10
    for found in seen:
        np.testing.assert_array_equal(read_dicom(found.source), shown_by_pydicom(found.source))
        assert read_dicom(found.source).std() > 1


@needs_data
@pytest.mark.data
def test_the_same_picture_is_the_same_however_it_is_stored(read_dicom):
    plain = read_dicom(DATA / "gray/MR_small.dcm")
    for kind in ("RLE", "bigendian", "implicit", "padded"):
        np.testing.assert_array_equal(read_dicom(DATA / f"gray/MR_small_{kind}.dcm"), plain)
    for kind in ("jp2klossless", "jpeg_ls_lossless"):
        np.testing.assert_array_equal(read_dicom(DATA / f"other/MR_small_{kind}.dcm"), plain)


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "code"),
    [("MR_truncated", "truncated"), ("rtdose", "unsupported_dtype")],
)
def test_what_cannot_be_read_is_refused_by_its_code(name, code, dicom_refusal):
    assert dicom_refusal(DATA / f"other/{name}.dcm").code == code


@needs_data
@pytest.mark.data
def test_jpeg_2000_is_what_another_decoder_makes_of_it(read_dicom):
    path = DATA / "other/693_J2KI.dcm"
    np.testing.assert_array_equal(read_dicom(path), shown_by_pydicom(path, decoding_plugin="pillow"))


@needs_data
@pytest.mark.data
def test_colour_and_frames_are_those_of_pydicom(read_dicom):
    for name, frames in {"ExplVR_BigEnd": 1, "SC_rgb_rle_2frame": 2}.items():
        path = DATA / f"other/{name}.dcm"
        for frame in range(frames):
            np.testing.assert_array_equal(read_dicom(path, frame=frame), pixel_array(path, index=frame))


@pytest.fixture
def compressed(tmp_path):
    """Writes a file of pydicom's with its pixels compressed as archives like it: `compressed("CT_small", "4.70")`."""
    gdcm = pytest.importorskip("gdcm")
    kinds = {"4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1, "4.80": gdcm.TransferSyntax.JPEGLSLossless}
    kinds["4.90"] = gdcm.TransferSyntax.JPEG2000Lossless

    def write(name, syntax):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(PYDICOMS / f"{name}.dcm"))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(tmp_path / "compressed.dcm"))
        assert writer.Write()
        dataset = pydicom.dcmread(tmp_path / "compressed.dcm")
        assert dataset.file_meta.TransferSyntaxUID == f"1.2.840.10008.1.2.{syntax}"
        return dataset

    return write


def changed(dataset, change):
    """The file's bytes with another codestream: `change` makes it of the present one."""
    dataset.PixelData = encapsulate([change(get_frame(dataset.PixelData, 0, number_of_frames=1))])
    return saved(dataset)


def saved(dataset):
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("syntax", ["4.70", "4.80", "4.90"])
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "examples_overlay", "examples_rgb_color"])
def test_lossless_codestreams_of_another_encoder_give_what_was_encoded(syntax, name, compressed, read_dicom):
    made = read_dicom(saved(compressed(name, syntax)))
    np.testing.assert_array_equal(made, read_dicom(PYDICOMS / f"{name}.dcm"))


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("syntax", ["4.70", "4.80", "4.90"])
def test_a_codestream_that_ends_early_is_refused(syntax, share, compressed, dicom_refusal):
    """No decoder may fill up what is missing."""
    data = changed(compressed("CT_small", syntax), lambda frame: frame[: int(len(frame) * share)])
    assert dicom_refusal(data).code == "corrupt"


def in_jfif(frame):
    """The codestream with the marker of JFIF, and its components no longer named R, G and B."""
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    for names in (b"R\x11\x00G\x11\x00B\x11\x00", b"R\x00G\x00B\x00"):
        assert frame.count(names) == 1
        frame = frame.replace(names, names.translate(bytes.maketrans(b"RGB", b"\1\2\3")))
    return frame[:2] + jfif + frame[2:]


def test_a_lossless_jpeg_in_jfif_is_ycc(compressed, read_dicom, write_dicom):
    dataset = compressed("examples_rgb_color", "4.70")
    assert dataset.PhotometricInterpretation == "RGB"
    data = changed(dataset, in_jfif)
    made = read_dicom(data)
    samples = read_dicom(PYDICOMS / "examples_rgb_color.dcm")
    np.testing.assert_array_equal(made, read_dicom(write_dicom(samples, PhotometricInterpretation="YBR_FULL")))


def test_a_codestream_as_long_as_the_pixels_is_read(compressed, read_dicom):
    def lengthened(frame):
        comment = 128 * 128 * 2 - len(encapsulate([frame])) - 4
        return frame[:2] + b"\xff\xfe" + (comment + 2).to_bytes(2, "big") + bytes(comment) + frame[2:]

    data = changed(compressed("CT_small", "4.70"), lengthened)
    np.testing.assert_array_equal(read_dicom(data), read_dicom(PYDICOMS / "CT_small.dcm"))
