"""The compressed frames of DICOM files: what their own headers say, and JPEG of 8 bits decoded by OpenCV.

A frame's own header decides how much its decoder allocates, so it has to say what the data set says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from medinfer.errors import ImageError, ResourceError
from medinfer.imaging.dicom._frames import PixelFormat, Samples

START_OF_JPEG, START_OF_JPEG2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
MOST_BOXES = 1 << 12  # bytes of a JP2 file's boxes, which do not belong here, before its codestream
# SOF0 to SOF15 less the three markers among them that are none, and that of JPEG-LS.
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
# Adobe's marker with transform 0: the components are RGB.
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Codestream:
    """A compressed frame, and what its header says."""

    data: bytes
    width: int
    height: int
    components: int
    bits: int
    says_rgb: bool = False
    """A JPEG whose components are named R, G and B"""
    says_ycc: bool = False
    """A JPEG in JFIF, which knows no other colours"""
    adobe: bool = False
    """A JPEG with a whole marker of Adobe's, by which decoders go"""

    def photometric(self, declared: str) -> str:
        """Return the colours that a decoder hands out; a JPEG that names its own is believed."""
        if self.components == 1 or not (self.says_rgb or self.says_ycc):
            return declared
        if self.says_rgb and self.says_ycc:
            raise ImageError("corrupt", "the JPEG says of its colours that they are both RGB and YCbCr")
        if self.says_rgb:
            return "RGB"
        return declared if declared.startswith("YBR") else "YBR_FULL"


def read_codestream(data: bytes, pixels: PixelFormat) -> Codestream:
    """Read a compressed frame's header and compare it with the data set.

    Raises:
        ImageError: `corrupt`, `unsupported_dtype`.
    """
    try:
        stream = _read_jpeg(data) if data.startswith(START_OF_JPEG) else _read_jpeg2000(data)
    except (struct.error, IndexError, ValueError):
        raise ImageError("corrupt", "the compressed pixels end within their header") from None
    said = (stream.width, stream.height, stream.components)
    if said != (pixels.columns, pixels.rows, pixels.samples):
        raise ImageError("corrupt", f"compressed pixels of {said} in a picture of {pixels.columns}x{pixels.rows}")
    if stream.bits > 16:
        raise ImageError("unsupported_dtype", f"{stream.bits}-bit samples; 8 or 16 bit are supported")
    if stream.bits > pixels.bits:
        raise ImageError("corrupt", f"compressed samples of {stream.bits} bits, for which {pixels.bits} are allocated")
    return stream


def _read_jpeg(data: bytes) -> Codestream:
    """Read the header of JPEG (baseline, extended, lossless) or JPEG-LS, up to its frame."""
    jfif = adobe = False
    offset = 2
    while True:
        marker, kind = data[offset], data[offset + 1]
        if marker != 0xFF:
            raise ImageError("corrupt", f"no JPEG marker at byte {offset}")
        if kind in FRAME_MARKERS:
            bits, height, width, components = struct.unpack_from(">BHHB", data, offset + 4)
            names = data[offset + 10 : offset + 10 + 3 * components : 3]
            rgb = names in (b"RGB", b"rgb")
            return Codestream(data, width, height, components, bits, rgb, jfif, adobe)
        if kind == 0xFF or kind == 0x01 or 0xD0 <= kind <= 0xD8:  # a fill byte, and markers without a length
            offset += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, offset + 2)
        jfif |= kind == 0xE0 and data.startswith(b"JFIF", offset + 4)
        adobe |= kind == 0xEE and length >= 14 and data.startswith(b"Adobe", offset + 4)
        offset += 2 + int(length)


def _read_jpeg2000(data: bytes) -> Codestream:
    start = data.find(START_OF_JPEG2000, 0, MOST_BOXES)
    if start < 0:
        raise ImageError("corrupt", "the compressed pixels are neither JPEG nor JPEG 2000")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    depths = data[start + 42 : start + 42 + 3 * components : 3]
    return Codestream(data[start:], right - left, bottom - top, components, max(depth & 0x7F for depth in depths) + 1)


def decode_jpeg(stream: Codestream, pixels: PixelFormat) -> Samples:
    """Decode 8-bit JPEG with the decoder of every other JPEG: uint8 (H, W), or (H, W, 3) RGB.

    Raises:
        ImageError: `corrupt`.
        ResourceError: There is no memory left to decode it.
    """
    data = stream.data
    if pixels.photometric == "RGB" and not stream.adobe:
        data = data[:2] + ADOBE_RGB + data[2:]  # without it, nearly all colours are taken for YCbCr
    flags = cv2.IMREAD_GRAYSCALE if stream.components == 1 else cv2.IMREAD_COLOR_RGB
    image: Any = None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # says nothing against the picture
            raise ResourceError(f"out of memory for {stream.width}x{stream.height} pixels") from None
    if image is None:
        raise ImageError("corrupt", f"the JPEG of {stream.width}x{stream.height} pixels does not decode")
    decoded: Samples = image
    return decoded
