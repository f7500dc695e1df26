"""Faults F21 and F42 to F62 of DICOM files."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from tests.faults.files import Pixels, dicom, encode
from tests.faults.rows import HEIGHT, WIDTH, Row, cut, deep, gray, rgb
from tests.faults.samples import run_lengths

MB = 1 << 20
DEADLY = b"\xff\xd8" + struct.pack(">BBHBHHBBBB", 0xFF, 0xC3, 11, 8, HEIGHT, WIDTH, 1, 1, 17, 9) + b"\x07\xff\xda"
"""A lossless JPEG of 18 bytes that ends a process in which GDCM decodes it"""
CENTER, WIDTH_OF_WINDOW = 2000, 1501


def scan(**tags: Any) -> bytes:
    """Return a file of 12 bits in 16, with a window."""
    return dicom(deep() >> 4, **{"WindowCenter": CENTER, "WindowWidth": WIDTH_OF_WINDOW, "BitsStored": 12, **tags})


def windowed(values: Pixels | None = None, center: float = CENTER, width: float = WIDTH_OF_WINDOW) -> Pixels:
    """Return DICOM PS3.3 C.11.2.1.2.1 by its words."""
    values = (deep() >> 4).astype(float) if values is None else values
    shown = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.floor(255 * shown + 0.5).astype(np.uint8)


def bomb() -> bytes:
    """Return 200 MB of zeros before the pixels, deflated to 200 kB."""
    return dicom(gray(), syntax=DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(200 * MB))


def without_syntax() -> bytes:
    """Return a file whose meta information lacks the transfer syntax."""
    data = scan()
    start = data.index(b"\x02\x00\x10\x00UI")
    (length,) = struct.unpack_from("<H", data, start + 6)
    meta = struct.unpack_from("<I", data, 140)[0] - 8 - length
    return data[:140] + struct.pack("<I", meta) + data[144:start] + data[start + 8 + length :]


def without_meta() -> bytes:
    """Return a data set alone, in an older form: without preamble and file meta information."""
    data = scan(StudyDate="20240506", Modality="CT")
    return data[144 + struct.unpack_from("<I", data, 140)[0] :]


def report() -> bytes:
    """Return a structured report, which is no picture."""
    picture = "Rows Columns BitsAllocated PixelRepresentation SamplesPerPixel PhotometricInterpretation PixelData"
    return dicom(gray(), Modality="SR", ContentSequence=Sequence([Dataset()]), **dict.fromkeys(picture.split()))


def frames() -> bytes:
    """Return three frames, of ten rows each."""
    tags = {"NumberOfFrames": 3, "Rows": 10, "Columns": WIDTH, "WindowCenter": 128, "WindowWidth": 256}
    return dicom(gray().reshape(3, 10, WIDTH), **tags)


def compressed(syntax: str, fragment: bytes) -> bytes:
    """Return a file of `gray` whose pixels are a codestream."""
    return dicom(gray(), syntax=syntax, fragment=fragment)


def hounsfield() -> bytes:
    """Return signed values with a rescale, and a window for soft tissue."""
    signed = (deep() >> 4).astype(np.int16) - 2000
    return dicom(signed, RescaleSlope=2, RescaleIntercept=-24, WindowCenter=40, WindowWidth=400)


def hounsfield_shown() -> Pixels:
    """Return what that window shows."""
    return windowed(((deep() >> 4).astype(float) - 2000) * 2 - 24, 40, 400)


def in_range(values: Pixels | None = None, inside: Pixels | None = None) -> Pixels:
    """Return values between the least and the greatest of those inside, by default of all."""
    values = (deep() >> 4).astype(float) if values is None else values.astype(float)
    inside = values if inside is None else inside
    share = np.clip((values - inside.min()) / (inside.max() - inside.min()), 0, 1)
    return np.floor(255 * share + 0.5).astype(np.uint8)


def padded() -> bytes:
    """Return signed values without a window, the left half of which is padding."""
    return dicom(half_padded(), PixelPaddingValue=-30000)


def half_padded() -> Pixels:
    """Return what it stores."""
    return np.where(np.arange(WIDTH) < WIDTH // 2, -30000, (deep() >> 4).astype(np.int16) - 1000).astype(np.int16)


def in_range_of_padded() -> Pixels:
    """Return what it shows."""
    return in_range(half_padded(), half_padded()[:, WIDTH // 2 :].astype(float))


def lossless() -> bytes:
    """Return 12 bits in a JPEG 2000 codestream of 16, as archives compress them."""
    stream = imagecodecs.jpeg2k_encode(deep() >> 4, level=0, reversible=True)
    return scan(syntax=JPEG2000Lossless, fragment=bytes(stream))


def colors_of_16_bits() -> bytes:
    """Return `rgb` in 16 bits."""
    return dicom(rgb().astype(np.uint16) * 257)


def of_one_bit() -> bytes:
    """Return one bit a pixel."""
    bits = np.packbits(gray() > 127, bitorder="little")
    packed = np.append(bits, np.zeros(len(bits) % 2, np.uint8))[None]
    return dicom(packed, BitsAllocated=1, BitsStored=1, Rows=HEIGHT, Columns=WIDTH)


def elements() -> bytes:
    """Return a million empty elements before the pixels."""
    data = scan()
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    return data[:start] + struct.pack("<HH2sH", 8, 0x2111, b"ST", 0) * MB + data[start:]


def paletted(entries: int) -> bytes:
    """Return a file of so many colours, whose pixels go beyond them if they are fewer than 256."""
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for step, color in enumerate(("Red", "Green", "Blue"), 1):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [entries, 0, 16]
        tags[f"{color}PaletteColorLookupTableData"] = (np.arange(entries, dtype=np.uint16) * step << 6).tobytes()
    return dicom(gray(), **tags)


def colors(entries: int) -> Pixels:
    """Return its colours: an index beyond the last entry is the last (PS3.3 C.7.6.3.1.5)."""
    index = np.minimum(gray(), entries - 1).astype(np.uint16)
    return np.dstack([(index * step << 6 >> 8).astype(np.uint8) for step in (1, 2, 3)])


def ybr() -> bytes:
    """Return `rgb` as YCbCr of the full range, by PS3.3 C.7.6.3.1.2."""
    red, green, blue = np.moveaxis(rgb().astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    stored = np.clip(np.dstack(planes) + 0.5, 0, 255).astype(np.uint8)
    return dicom(stored, PhotometricInterpretation="YBR_FULL")


def nested(depth: int = 3000) -> bytes:
    """Return sequences in sequences without end."""
    opened = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = scan()
    rows = data.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    return data[:rows] + opened * depth + data[rows:]


def codestream(marker: int) -> bytes:
    """Return a JPEG of another process that says its size, and holds nothing."""
    frame = struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, 8, HEIGHT, WIDTH, 1, 1, 0x11, 0)
    return b"\xff\xd8" + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(20) + b"\xff\xd9"


DICOM = [
    Row(21, "bomb.dcm", bomb, "too_large"),
    Row(21, "elements.dcm", elements, "too_large"),
    Row(42, "IM0001", scan, windowed),
    Row(43, "no-preamble.dcm", lambda: scan()[132:], windowed),
    Row(43, "no-file-meta.dcm", without_meta, windowed),
    Row(44, "cut-pixels.dcm", lambda: scan()[:-40], "truncated"),
    Row(45, "header-only.dcm", lambda: scan()[:300], "truncated"),
    Row(45, "no-syntax.dcm", without_syntax, "invalid_dicom"),
    Row(46, "report.dcm", report, "unsupported_format"),
    Row(46, "no-pixels.dcm", lambda: scan(PixelData=None), "truncated"),
    Row(47, "lying-size.dcm", lambda: scan(Rows=60_000, Columns=60_000), "too_large"),
    Row(48, "frames.dcm", frames, lambda: gray()[:10]),
    Row(48, "frame-2.dcm", frames, lambda: gray()[20:], {"dicom": {"frame": 2}}),
    Row(48, "no-such-frame.dcm", frames, "multi_frame", {"dicom": {"frame": 3}}),
    Row(50, "damaged.dcm", lambda: compressed(JPEGBaseline8Bit, cut(encode(gray(), "JPEG"), 0.5)), "corrupt"),
    Row(50, "deadly.dcm", lambda: compressed(JPEGLossless, DEADLY), "corrupt"),
    Row(50, "jpeg-2000.dcm", lossless, windowed),
    Row(51, "run-lengths.dcm", lambda: run_lengths(scan()), windowed),
    Row(52, "video.dcm", lambda: compressed(MPEG2MPML, b"\0\0\1\xb3" + bytes(40)), "unsupported_format"),
    Row(53, "inverse.dcm", lambda: dicom(gray(), PhotometricInterpretation="MONOCHROME1"), lambda: 255 - gray()),
    Row(54, "hounsfield.dcm", hounsfield, hounsfield_shown),
    Row(55, "no-window.dcm", lambda: scan(WindowCenter=None, WindowWidth=None), in_range),
    Row(55, "padding.dcm", padded, in_range_of_padded),
    Row(55, "constant.dcm", lambda: dicom(np.full_like(gray(), 200)), lambda: np.zeros_like(gray())),
    Row(56, "no-width.dcm", lambda: scan(WindowWidth=0), in_range),
    Row(57, "windows.dcm", lambda: scan(WindowCenter=[CENTER, 40], WindowWidth=[WIDTH_OF_WINDOW, 80]), windowed),
    Row(58, "palette.dcm", lambda: paletted(256), lambda: colors(256)),
    Row(58, "beyond-the-palette.dcm", lambda: paletted(100), lambda: colors(100)),
    Row(59, "ybr.dcm", ybr, rgb),
    Row(60, "no-photometric.dcm", lambda: scan(PhotometricInterpretation=None), "invalid_dicom"),
    Row(61, "nested.dcm", nested, "invalid_dicom"),
    Row(62, "16-bit-colors.dcm", colors_of_16_bits, rgb),
    Row(62, "one-bit.dcm", of_one_bit, lambda: np.where(gray() > 127, 255, 0).astype(np.uint8)),
    Row(62, "dose.dcm", lambda: dicom(np.uint32(gray())), "unsupported_dtype"),
]

# Compressed pixels for which an environment may have no decoder.
UNDECODED = {
    "JPEG 2000": lambda: compressed(JPEG2000Lossless, encode(gray(), "JPEG2000")),
    "JPEG-LS": lambda: compressed(JPEGLSLossless, codestream(0xF7)),
    "JPEG Lossless": lambda: compressed(JPEGLosslessSV1, codestream(0xC3)),
}
