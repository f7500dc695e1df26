"""The compressions of TIFF segments, each strict: a segment must decode to exactly its size.

Stored, deflate, LZW, PackBits and JPEG segments need no extra. The others are decoded by imagecodecs, in a child
process.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError

Codes = npt.NDArray[np.uint32]

STORED, LZW, JPEG, ADOBE_DEFLATE, PACKBITS, DEFLATE = 1, 5, 7, 8, 32773, 32946
CLEAR, END, FIRST_FREE = 256, 257, 258
CLEARS, CODES_PER_CLEAR = 16, 64
"""Each clear code costs as much time as dozens of others; encoders write one in some thousands."""
LITERALS = [bytes([value]) for value in range(256)]


class Isolated(NamedTuple):
    """A codec of `_decoder_process.py`; `plain` if it gives bytes, and not samples."""

    codec: str
    plain: bool


ISOLATED = {
    2: Isolated("ccittrle", plain=False),
    3: Isolated("ccittfax3", plain=False),
    4: Isolated("ccittfax4", plain=False),
    22610: Isolated("jpegxr", plain=False),
    33003: Isolated("jpeg2000", plain=False),
    33004: Isolated("jpeg2000", plain=False),
    33005: Isolated("jpeg2000", plain=False),
    34712: Isolated("jpeg2000", plain=False),
    34925: Isolated("lzma", plain=True),
    34933: Isolated("png", plain=False),
    34934: Isolated("jpegxr", plain=False),
    50000: Isolated("zstd", plain=True),
    50001: Isolated("webp", plain=False),
    50002: Isolated("jpegxl", plain=False),
    52546: Isolated("jpegxl", plain=False),
}


def inflate(data: bytes, size: int) -> bytes:
    """Decompress a zlib stream; its checksum is compared.

    Args:
        data: The segment.
        size: The size of its pixels.

    Raises:
        ImageError: `corrupt`.
    """
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError("corrupt", f"a deflated segment is damaged: {error}") from None
    if not inflater.eof:
        raise ImageError("corrupt", "a deflated segment ends early, or is longer than its pixels")
    return exact(plain, size)


def unpack_lzw(data: bytes, size: int) -> bytes:
    """Decompress LZW (TIFF 6.0, section 13); arguments and errors as of `inflate`."""
    padded: Codes = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    windows: Any = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # 24 bits from each byte on
    strings: list[bytes] = []
    parts: list[bytes] = []
    total, position, width, last, clears = 0, 0, 9, b"", 0
    while position + width <= 8 * len(data) and total <= size:
        # The width of a code follows from the number of codes since the table was cleared, so many are cut out at once.
        room = (1 << width) - (width < 12) - (FIRST_FREE + len(strings)) + (not last)
        codes = _codes(windows, position, width, min(room, (8 * len(data) - position) // width))
        ended = np.flatnonzero((codes == CLEAR) | (codes == END))
        count = int(ended[0]) if len(ended) else len(codes)
        begin = len(parts)
        last = _expand(codes[:count].tolist(), strings, parts, last)
        total += sum(map(len, parts[begin:]))
        position += width * (count + bool(len(ended)))
        if len(ended):
            if codes[count] == END:
                break
            strings, width, last, clears = [], 9, b"", clears + 1
            if clears > CLEARS + total // CODES_PER_CLEAR:
                raise ImageError("corrupt", "an LZW segment clears its table again and again")
        elif width < 12:
            width += 1
        elif count >= room:
            raise ImageError("corrupt", "an LZW segment is damaged: its table overflows")
    return exact(b"".join(parts), size)


def _codes(windows: Codes, position: int, width: int, count: int) -> Codes:
    bits = position + width * np.arange(count)
    codes: Codes = windows[bits >> 3] >> (24 - width - (bits & 7)).astype(np.uint32) & np.uint32((1 << width) - 1)
    return codes


def _expand(codes: list[int], strings: list[bytes], parts: list[bytes], last: bytes) -> bytes:
    """Append the string of each code to `parts`, and each new string to the table; returns the last string."""
    for code in codes:
        if code < CLEAR:
            string = LITERALS[code]
        elif code - FIRST_FREE < len(strings):
            string = strings[code - FIRST_FREE]
        elif last and code - FIRST_FREE == len(strings):
            string = last + last[:1]
        else:
            raise ImageError("corrupt", "an LZW segment is damaged: it uses a code before it exists")
        if last:
            strings.append(last + string[:1])
        parts.append(string)
        last = string
    return last


def unpack_bits(data: bytes, size: int) -> bytes:
    """Decompress PackBits (TIFF 6.0, section 9); arguments and errors as of `inflate`."""
    plain, place = bytearray(), 0
    while place < len(data) and len(plain) <= size:
        count = data[place]
        if count < 128:  # so many bytes and one as they are
            plain += data[place + 1 : place + 2 + count]
            place += 2 + count
        elif count > 128:  # one byte again and again
            plain += data[place + 1 : place + 2] * (257 - count)
            place += 2
        else:  # nothing
            place += 1
        if len(plain) == size:
            break
    if len(data) - place > 1 or place > len(data):  # one byte may pad the segment
        raise ImageError("corrupt", "a PackBits segment is longer or shorter than its pixels")
    return exact(bytes(plain), size)


def exact(plain: bytes, size: int) -> bytes:
    """Return a segment that has the size of its pixels; raises ImageError `corrupt`."""
    if len(plain) != size:
        raise ImageError("corrupt", f"a segment of {len(plain)} bytes, where its pixels take {size}")
    return plain


PLAIN = {LZW: unpack_lzw, ADOBE_DEFLATE: inflate, DEFLATE: inflate, PACKBITS: unpack_bits}
