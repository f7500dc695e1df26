"""What an image file says of itself before a pixel is decoded.

A header of a few bytes can promise gigabytes, so size, depth and frame count are read here and judged first.
Only the formats listed in `READERS` are decoded at all: each decoder is attack surface.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

from medinfer.errors import ImageError

Format = Literal["png", "jpeg", "bmp", "tiff", "webp"]


class Header(NamedTuple):
    """Facts from a header; sizes in pixels, as stored (before EXIF orientation)."""

    format: Format
    width: int
    height: int
    bits: int = 8
    gray: bool = False
    alpha: bool = False
    floating: bool = False
    multi_frame: bool = False
    white_is_zero: bool = False
    transparent_level: int | None = None
    orientation: int = 1


def read_header(data: bytes) -> Header:
    """Read a file's header; raises ImageError `not_an_image`, `truncated` or `corrupt`."""
    for magic, offset, reader in READERS:
        if data[offset : offset + len(magic)] == magic:
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise ImageError("truncated", f"the file ends within its header, after {len(data)} bytes") from None
    if not data:
        raise ImageError("empty_file", "the file has 0 bytes")
    raise ImageError(
        "not_an_image",
        f"no image starts with {data[:8]!r}",
        hint="Supported: PNG, JPEG, BMP, TIFF, WebP, DICOM.",
    )


def looks_truncated(header: Header, data: bytes) -> bool:
    """Tell whether a file that would not decode lacks its end (otherwise it is corrupt)."""
    if header.format == "png":
        return b"IEND" not in data[-16:]
    if header.format == "jpeg":
        return b"\xff\xd9" not in data[-64:]
    if header.format == "webp":
        return int(struct.unpack_from("<I", data, 4)[0]) + 8 > len(data)
    if header.format == "bmp":
        return int(struct.unpack_from("<I", data, 2)[0]) > len(data)
    # A TIFF has no end mark and no length; its directory often stands last, so a lost one is the usual sign.
    return _tiff_offset(data) >= len(data)


def _read_png(data: bytes) -> Header:
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise ImageError("corrupt", f"a PNG starts with IHDR, this one with {data[12:16]!r}")
    transparent, animated, orientation = color in (4, 6), False, 1
    level: int | None = None
    offset = 8
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        if kind == b"tRNS":
            transparent = True
            level = int(struct.unpack_from(">H", data, offset + 8)[0]) if color == 0 else None
        animated |= kind == b"acTL"
        if kind == b"eXIf":
            orientation = _exif_orientation(data[offset + 8 : offset + 8 + length])
        offset += 12 + length
    return Header(
        format="png",
        width=width,
        height=height,
        bits=bits,
        gray=color in (0, 4),
        alpha=transparent,
        multi_frame=animated,
        transparent_level=level,
        orientation=orientation,
    )


def _read_jpeg(data: bytes) -> Header:
    offset = 2
    while True:
        marker, kind = data[offset], data[offset + 1]
        if marker != 0xFF:
            raise ImageError("corrupt", f"no JPEG marker at byte {offset}")
        if kind == 0xFF:  # fill byte
            offset += 1
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length
            offset += 2
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of frame
            bits, height, width, components = struct.unpack_from(">BHHB", data, offset + 4)
            return Header(format="jpeg", width=width, height=height, bits=bits, gray=components == 1)
        else:
            offset += 2 + int(struct.unpack_from(">H", data, offset + 2)[0])


def _read_bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    # From version 3 of the header on there is a mask of the alpha bits.
    alpha = size >= 56 and struct.unpack_from("<I", data, 66)[0] != 0
    # A negative height means that the rows run from the top.
    return Header(format="bmp", width=abs(width), height=abs(height), alpha=alpha)


def _read_webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        exif = data.find(b"EXIF", 30) if flags & 0x08 else -1
        orientation = _exif_orientation(data[exif + 8 :]) if exif >= 0 else 1
        alpha, animated = bool(flags & 0x10), bool(flags & 0x02)
        return Header(
            format="webp", width=width, height=height, alpha=alpha, multi_frame=animated, orientation=orientation
        )
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        alpha = bool(packed >> 28 & 1)
        return Header(format="webp", width=1 + (packed & 0x3FFF), height=1 + (packed >> 14 & 0x3FFF), alpha=alpha)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header(format="webp", width=width & 0x3FFF, height=height & 0x3FFF)


def _read_tiff(data: bytes) -> Header:
    tags, following = _tiff_directory(data, _tiff_offset(data))
    samples = tags.get(277, 1)
    return Header(
        format="tiff",
        width=tags.get(256, 0),
        height=tags.get(257, 0),
        bits=tags.get(258, 1),
        gray=samples == 1 and tags.get(262) in (0, 1),
        # Four samples of RGB or two of gray: the fourth or second is alpha, whether the file says so or not.
        alpha=338 in tags or (samples, tags.get(262)) in ((4, 2), (2, 1), (2, 0)),
        floating=tags.get(339) == 3,
        multi_frame=following != 0,
        white_is_zero=tags.get(262) == 0,
        orientation=tags.get(274, 1),
    )


def _tiff_offset(data: bytes) -> int:
    return int(struct.unpack_from(_tiff_order(data) + "I", data, 4)[0])


def _tiff_order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _tiff_directory(data: bytes, offset: int) -> tuple[dict[int, int], int]:
    """Return the first value of each integer tag, and the offset of the next directory (0: none)."""
    order = _tiff_order(data)
    (count,) = struct.unpack_from(order + "H", data, offset)
    tags = {}
    for position in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, position)
        code, size = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if not code or not values:
            continue
        where = position + 8
        if size * values > 4:
            (where,) = struct.unpack_from(order + "I", data, where)
        (tags[tag],) = struct.unpack_from(order + code, data, where)
    (following,) = struct.unpack_from(order + "I", data, offset + 2 + 12 * count)
    return tags, following


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation (1..8) of an EXIF block, which is a small TIFF; 1 where it cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        tags, _ = _tiff_directory(exif, _tiff_offset(exif))
    except struct.error:
        return 1
    orientation = tags.get(274, 1)
    return orientation if 1 <= orientation <= 8 else 1


READERS: tuple[tuple[bytes, int, Callable[[bytes], Header]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, _read_png),
    (b"\xff\xd8\xff", 0, _read_jpeg),
    (b"BM", 0, _read_bmp),
    (b"II*\0", 0, _read_tiff),
    (b"MM\0*", 0, _read_tiff),
    (b"WEBP", 8, _read_webp),
)
