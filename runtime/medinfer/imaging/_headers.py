"""Image headers, read before a pixel is decoded.

A header of a few bytes can promise gigabytes, so size, depth and frame count are read here and judged first.
Only the formats listed in `READERS` are decoded at all: each decoder is attack surface.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging._files import Bytes
from medinfer.imaging._limits import PARTS, SKIPPED_BYTES, max_parts
from medinfer.imaging.tiff import read_directory, read_tiff_header

Format = Literal["png", "jpeg", "bmp", "tiff", "webp"]
SUPPORTED = "Supported: PNG, JPEG, BMP, TIFF, WebP, DICOM."
# SOF0 to SOF2 and, arithmetic-coded, SOF9 and SOF10: what libjpeg-turbo decodes.
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
PROGRESSIVE = frozenset({0xC2, 0xCA})
OTHER_JPEG_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
PNG_SAMPLES, PNG_BYTES = {2: 3, 4: 2, 6: 4}, 1 << 16
START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1


class Header(NamedTuple):
    """Facts from a header; sizes in pixels, as stored (before EXIF orientation)."""

    format: Format
    width: int
    height: int
    bits: int = 8
    channels: int = 3
    alpha: bool = False
    floating: bool = False
    multi_frame: bool = False
    transparent_level: int | None = None
    orientation: int = 1
    bulky: bool = False
    """A PNG with over 64 KiB of chunks that are no pixels."""
    many_scans: bool = False
    """A JPEG whose components or bits are spread over several scans."""


def read_header(data: Bytes) -> Header:
    """Read a file's header; raises ImageError `not_an_image`, `truncated`, `corrupt`, `unsupported_format`."""
    start = data[0:12]
    for magic, offset, reader in READERS:
        if start[offset : offset + len(magic)] == magic:
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise ImageError("truncated", f"the file ends within its header, after {len(data)} bytes") from None
    if not start:
        raise ImageError("empty_file", "the file has 0 bytes")
    raise ImageError("not_an_image", f"no image starts with {start[:8]!r}", hint=SUPPORTED)


def looks_truncated(header: Header, data: bytes) -> bool:
    """Tell whether a PNG, WebP or BMP that would not decode lacks its end (otherwise it is corrupt)."""
    if header.format == "png":
        return b"IEND" not in data[-16:]
    if header.format == "webp":
        return int(struct.unpack_from("<I", data, 4)[0]) + 8 > len(data)
    return int(struct.unpack_from("<I", data, 2)[0]) > len(data)


def _unpack(layout: str, data: Bytes, offset: int) -> tuple[Any, ...]:
    return struct.unpack(layout, data[offset : offset + struct.calcsize(layout)])


def _read_png(data: Bytes) -> Header:
    length, kind, width, height, bits, color = _unpack(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageError("corrupt", f"a PNG starts with IHDR, this one with {kind!r}")
    header = Header("png", width, height, bits, channels=1 if color in (0, 4) else 3, alpha=color in (4, 6))
    compressed, other = 0, 0
    for kind, start, length in png_chunks(data, max_parts(width * height)):
        if kind == b"IDAT":
            compressed += length
            continue
        other += length
        if kind == b"acTL":
            header = header._replace(multi_frame=True)
        elif kind == b"tRNS":
            body = _checked_chunk(data, start, length)
            level = int(struct.unpack_from(">H", body)[0]) if color == 0 else None
            header = header._replace(alpha=True, transparent_level=level)
        elif kind == b"eXIf":
            header = header._replace(orientation=exif_orientation(_checked_chunk(data, start, length)))
    row_bytes = 1 + (width * bits * PNG_SAMPLES.get(color, 1) + 7) // 8
    if compressed > 2 * height * row_bytes + PNG_BYTES:  # deflate adds a thousandth at worst
        raise ImageError("corrupt", f"{compressed} bytes of compressed pixels for {width}x{height} pixels")
    return header._replace(bulky=other > PNG_BYTES)


def png_chunks(data: Bytes, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk up to IEND, and the offset and length of its body."""
    offset = 8
    for _ in range(most):
        head = data[offset : offset + 8]
        kind = head[4:]
        if len(kind) < 4 or kind == b"IEND":
            return  # a missing end is the decoder's to find
        length = int.from_bytes(head[:4], "big")
        yield kind, offset + 8, length
        offset += 12 + length
    raise ImageError("too_large", f"the PNG has more than {most} chunks")


def _checked_chunk(data: Bytes, start: int, length: int) -> bytes:
    """Return the body of a chunk; its checksum is compared here, for libpng passes over a wrong one."""
    body = data[start : start + length]
    if zlib.crc32(data[start - 4 : start] + body) != int.from_bytes(data[start + length : start + length + 4], "big"):
        raise ImageError("corrupt", f"the PNG's chunk {data[start - 4 : start]!r} has a wrong checksum")
    return body


def _read_jpeg(data: Bytes) -> Header:
    header: Header | None = None
    orientation: int | None = None
    for kind, start, length in jpeg_segments(data):
        if kind in OTHER_JPEG_FRAMES:
            raise ImageError("unsupported_format", "lossless or hierarchical JPEG, or JPEG-LS")
        if kind in JPEG_FRAMES:
            bits, height, width, channels = struct.unpack(">BHHB", data[start : start + 6])
            if channels not in (1, 3, 4):
                raise ImageError("unsupported_format", f"a JPEG of {channels} components")
            header = Header("jpeg", width, height, bits, channels, many_scans=kind in PROGRESSIVE)
        elif kind == START_OF_SCAN and header and data[start : start + 1] != bytes([header.channels]):
            header = header._replace(many_scans=True)
        elif kind == APP1 and orientation is None and data[start : start + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[start : start + length])
    if header is None:
        raise ImageError("corrupt", "the JPEG has no frame header before its scan")
    return header._replace(orientation=orientation or 1)


def jpeg_segments(data: Bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment up to the first scan, and the offset and length of its body."""
    offset, skipped = 2, 0
    for _ in range(PARTS):
        head = data[offset : offset + 4]
        if head[0] != 0xFF:
            raise ImageError("corrupt", f"no JPEG marker at byte {offset}")
        marker = head[1]
        if marker == 0xFF:
            fill = _count_fill(data, offset) - 1
            offset, skipped = offset + fill, skipped + fill
            if skipped > SKIPPED_BYTES:
                raise ImageError("corrupt", f"the JPEG has more than {SKIPPED_BYTES} fill bytes")
        elif marker == END_OF_IMAGE:
            return
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            offset += 2
        else:
            length = int.from_bytes(head[2:], "big")
            yield marker, offset + 4, length - 2
            if marker == START_OF_SCAN:
                return
            offset += 2 + length
    raise ImageError("too_large", f"the JPEG has more than {PARTS} segments")


def _count_fill(data: Bytes, offset: int) -> int:
    """Return how many bytes of 0xFF stand at an offset, up to just over the limit."""
    window = data[offset : offset + SKIPPED_BYTES + 2]
    return len(window) - len(window.lstrip(b"\xff"))


def _read_bmp(data: Bytes) -> Header:
    (size,) = _unpack("<I", data, 14)
    width, height = _unpack("<HH", data, 18) if size == 12 else _unpack("<ii", data, 18)
    # From version 3 of the header on there is a mask of the alpha bits.
    alpha = size >= 56 and _unpack("<I", data, 66)[0] != 0
    # A negative height means that the rows run from the top.
    return Header("bmp", abs(width), abs(height), alpha=alpha)


def _read_webp(data: Bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        return _read_extended_webp(data)
    if kind == b"VP8L":
        (packed,) = _unpack("<I", data, 21)
        return Header("webp", 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF), alpha=bool(packed >> 28 & 1))
    width, height = _unpack("<HH", data, 26)
    return Header("webp", width & 0x3FFF, height & 0x3FFF)


def _read_extended_webp(data: Bytes) -> Header:
    flags, *sides = _unpack("<B3xHBHB", data, 20)
    width, height = 1 + sides[0] + (sides[1] << 16), 1 + sides[2] + (sides[3] << 16)
    orientation, offset, most = 1, 30, max_parts(width * height)
    for _ in range(most):
        head = data[offset : offset + 8]
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF" and flags & 0x08:
            orientation = exif_orientation(data[offset + 8 : offset + 8 + length])
            break
        offset += 8 + length + length % 2
    else:
        raise ImageError("too_large", f"the WebP has more than {most} chunks")
    alpha, animated = bool(flags & 0x10), bool(flags & 0x02)
    return Header("webp", width, height, alpha=alpha, multi_frame=animated, orientation=orientation)


def _read_tiff(data: Bytes) -> Header:
    tiff = read_tiff_header(data)
    return Header(
        "tiff",
        tiff.width,
        tiff.height,
        bits=tiff.bits,
        channels=tiff.channels,
        alpha=tiff.alpha is not None,
        floating=tiff.floating,
        multi_frame=tiff.multi_frame,
        orientation=tiff.orientation,
    )


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (1..8) of an EXIF block, which is a small TIFF; 1 where it cannot be read."""
    try:
        orientation = read_directory(exif.removeprefix(b"Exif\0\0")).value(274, 1)
    except (struct.error, ImageError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


READERS: tuple[tuple[bytes, int, Callable[[Bytes], Header]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, _read_png),
    (b"\xff\xd8\xff", 0, _read_jpeg),
    (b"BM", 0, _read_bmp),
    (b"II*\0", 0, _read_tiff),
    (b"MM\0*", 0, _read_tiff),
    (b"II+\0", 0, _read_tiff),
    (b"MM\0+", 0, _read_tiff),
    (b"WEBP", 8, _read_webp),
)
