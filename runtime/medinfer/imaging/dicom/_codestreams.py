"""Compressed frames. A frame's own header decides how much its decoder allocates: it has to agree with the data set."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging._headers import JPEG_FRAMES, OTHER_JPEG_FRAMES, jpeg_segments
from medinfer.imaging._isolation import decode_isolated
from medinfer.imaging._jpeg import ADOBE_RGB, decode_jpeg
from medinfer.imaging.dicom._format import PixelFormat

BOX_BYTES = 1 << 12
"""Of a JP2 file before its codestream; DICOM allows none, and some writers leave them."""


class Codestream(NamedTuple):
    """A compressed frame, and its header; `names` are those of its components, `markers` where JFIF and Adobe are."""

    data: bytes
    columns: int
    rows: int
    samples: int
    bits: int
    names: bytes = b""
    markers: tuple[tuple[bytes, int], ...] = ()

    def photometric(self, declared: str) -> str:
        """Return the colors of the components; a JPEG that names its own is believed."""
        rgb, jfif = self.names in (b"RGB", b"rgb"), any(name == b"JFIF" for name, _ in self.markers)
        if rgb and jfif:
            raise ImageError("corrupt", "the JPEG names its colors both RGB and YCbCr")
        if self.samples == 1 or not (rgb or jfif):
            return declared
        return "RGB" if rgb else declared if declared.startswith("YBR") else "YBR_FULL"

    def without_colors(self) -> bytes:
        """Return a JPEG whose components its decoder hands out as they are."""
        data = bytearray(self.data)
        for name, offset in self.markers:
            data[offset : offset + len(name)] = bytes(len(name))
        return bytes(data[:2] + ADOBE_RGB + data[2:])


def decode_frame(data: bytes, pixels: PixelFormat, codec: str) -> tuple[Any, str]:
    """Return a frame as stored, (H, W) or (H, W, 3), and its colors; raises ImageError, mostly `corrupt`."""
    stream = _read_header(data, pixels)
    if codec == "jpegls" and b"\xff\xd9" not in data[-64:]:  # CharLS takes 2 s to find out
        raise ImageError("corrupt", "the compressed pixels have no end mark")
    photometric, color = stream.photometric(pixels.photometric_interpretation), stream.samples == 3
    if color and codec in ("jpeg", "jpeg_lossless"):
        _check_jpeg_colors(pixels)
    if codec == "jpeg" and stream.bits == 8:
        samples, photometric = _decode_jpeg(stream, photometric), "RGB" if color else photometric
    else:
        codec = "jpeg_12bit" if codec == "jpeg" else codec
        plain = stream.without_colors() if color and codec in ("jpeg_12bit", "jpeg_lossless") else stream.data
        samples = decode_isolated(codec, plain, pixels=pixels.pixels)
    if samples.shape != (pixels.rows, pixels.columns, 3)[: 2 + color]:
        raise ImageError("corrupt", f"compressed pixels of shape {samples.shape}")
    if color and 8 * samples.itemsize != pixels.bits_allocated:
        raise ImageError(
            "corrupt", f"colors of {8 * samples.itemsize} bits, for which {pixels.bits_allocated} are allocated"
        )
    return samples.astype(f"i{pixels.bits_allocated // 8}") if samples.dtype.kind == "i" else samples, photometric


def _check_jpeg_colors(pixels: PixelFormat) -> None:
    """Refuse what contradicts a JPEG of colors: they are interleaved, and are not those of JPEG 2000 (PS3.5 8.2.1)."""
    if pixels.planar_configuration or pixels.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        planes = f"planar configuration {pixels.planar_configuration}"
        raise ImageError("invalid_dicom", f"a JPEG of {pixels.photometric_interpretation}, {planes}")


def _decode_jpeg(stream: Codestream, photometric: str) -> Any:
    rgb = photometric == "RGB" and all(name != b"Adobe" for name, _ in stream.markers)  # decoders go by Adobe's
    try:
        return decode_jpeg(stream.data, colors="rgb" if stream.samples == 3 else "gray", rgb_components=rgb)
    except ImageError as error:  # a whole file with half a JPEG
        raise ImageError("corrupt", error.message) from None


def _read_header(data: bytes, pixels: PixelFormat) -> Codestream:
    try:
        stream = _read_jpeg(data) if data.startswith(b"\xff\xd8") else _read_jpeg2000(data)
    except (struct.error, IndexError, ValueError):
        raise ImageError("corrupt", "the compressed pixels end within their header") from None
    size, bits = (stream.columns, stream.rows, stream.samples), pixels.bits_allocated
    if size != (pixels.columns, pixels.rows, pixels.samples_per_pixel):
        raise ImageError("corrupt", f"compressed pixels of {size} in an image of {pixels.columns}x{pixels.rows}")
    if stream.bits > 16:
        raise ImageError("unsupported_dtype", f"{stream.bits}-bit samples; 8 or 16 bit are supported")
    if stream.bits > bits:
        raise ImageError("corrupt", f"compressed samples of {stream.bits} bits, for which {bits} are allocated")
    return stream


def _read_jpeg(data: bytes) -> Codestream:
    markers: list[tuple[bytes, int]] = []
    for kind, start, length in jpeg_segments(data):
        if kind in JPEG_FRAMES | OTHER_JPEG_FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, start)
            names = data[start + 6 : start + 6 + 3 * samples : 3]
            return Codestream(data, columns, rows, samples, bits, names, tuple(markers))
        for name, place, least in ((b"JFIF", 0xE0, 0), (b"Adobe", 0xEE, 12)):
            if kind == place and length >= least and data.startswith(name, start):
                markers.append((name, start))
    raise ImageError("corrupt", "the JPEG has no frame header before its scan")


def _read_jpeg2000(data: bytes) -> Codestream:
    start = data.find(b"\xff\x4f\xff\x51", 0, BOX_BYTES)
    if start < 0:
        raise ImageError("corrupt", "the compressed pixels are neither JPEG nor JPEG 2000")
    right, bottom, left, top, samples = struct.unpack_from(">4I16xH", data, start + 8)
    bits = max(depth & 0x7F for depth in data[start + 42 : start + 42 + 3 * samples : 3]) + 1
    return Codestream(data[start:], right - left, bottom - top, samples, bits)
