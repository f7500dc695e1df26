"""Faults F21 and F42 to F62 of DICOM files."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from tests.faults.files import Pixels, dicom, encode
from tests.faults.rows import HEIGHT, WIDTH, Row, cut, deep, gray, of_12_bits, rgb
from tests.faults.samples import run_lengths

MB = 1 << 20
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


def report() -> bytes:
    """Return a structured report, which is no picture."""
    picture = "Rows Columns BitsAllocated PixelRepresentation SamplesPerPixel PhotometricInterpretation PixelData"
    return dicom(gray(), Modality="SR", ContentSequence=Sequence([Dataset()]), **dict.fromkeys(picture.split()))


def frames() -> bytes:
    """Return three frames, of ten rows each."""
    return dicom(gray().reshape(3, 10, WIDTH), NumberOfFrames=3, Rows=10, Columns=WIDTH)


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
    Row(42, "IM0001", scan, windowed),
    Row(43, "no-preamble.dcm", lambda: scan()[132:], "not_an_image"),
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
    Row(51, "run-lengths.dcm", lambda: run_lengths(scan()), windowed),
    Row(52, "video.dcm", lambda: compressed(MPEG2MPML, b"\0\0\1\xb3" + bytes(40)), "unsupported_format"),
    Row(53, "inverse.dcm", lambda: dicom(gray(), PhotometricInterpretation="MONOCHROME1"), lambda: 255 - gray()),
    Row(54, "hounsfield.dcm", hounsfield, hounsfield_shown),
    Row(55, "no-window.dcm", lambda: scan(WindowCenter=None, WindowWidth=None), of_12_bits),
    Row(56, "no-width.dcm", lambda: scan(WindowWidth=0), of_12_bits),
    Row(57, "windows.dcm", lambda: scan(WindowCenter=[CENTER, 40], WindowWidth=[WIDTH_OF_WINDOW, 80]), windowed),
    Row(58, "palette.dcm", lambda: paletted(256), lambda: colors(256)),
    Row(58, "beyond-the-palette.dcm", lambda: paletted(100), lambda: colors(100)),
    Row(59, "ybr.dcm", ybr, rgb),
    Row(60, "no-photometric.dcm", lambda: scan(PhotometricInterpretation=None), "invalid_dicom"),
    Row(61, "nested.dcm", nested, "truncated"),
    Row(62, "dose.dcm", lambda: dicom(np.uint32(gray())), "unsupported_dtype"),
]

# Compressed pixels for which an environment may have no decoder.
UNDECODED = {
    "JPEG 2000": lambda: compressed(JPEG2000Lossless, encode(gray(), "JPEG2000")),
    "JPEG-LS": lambda: compressed(JPEGLSLossless, codestream(0xF7)),
    "JPEG Lossless": lambda: compressed(JPEGLosslessSV1, codestream(0xC3)),
}
