"""Guards of DICOM files: each judges a size before pydicom or zlib allocates for it. All limits are here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate, pairwise

from medinfer.errors import ImageError
from medinfer.imaging._limits import MAX_FILE_BYTES

STEPS = 800_000
"""Elements, items and reads of a file: 1 s of CPU time. A frame of an enhanced multi-frame file takes about 100."""
VALUE_BYTES = 64 << 20
"""Of a value that is read. The longest are functional groups: 4 KiB for each of 16,384 frames."""
HEADER_BYTES, BLOCK_BYTES = 16 << 20, 8 << 20
"""Of a deflated data set up to its pixel data, and of what is inflated at a time after it."""
RLE_BYTES = 1 << 10
"""An RLE segment of n pixels has at most 2 n bytes, PackBits at its worst, and these."""
ITEM, ITEM_END, SEQUENCE_END, UNDEFINED = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


class Source(io.BytesIO):
    """Bytes in a byte order, `<` or `>`, whose reads are counted: in one iterator for a file and all its items."""

    def __init__(self, data: bytes, order: str = "<", steps: Iterator[int] | None = None) -> None:
        super().__init__(data)
        self.data, self.order, self.steps = data, order, steps or iter(range(STEPS))

    def part(self, start: int, stop: int) -> Source:
        """Return a part of the bytes, with the same limit."""
        return Source(self.data[start:stop], self.order, self.steps)

    def count(self) -> None:
        """Count a step; raises ImageError `too_large` beyond the limit."""
        if next(self.steps, None) is None:
            raise ImageError("too_large", f"the DICOM file has more than {STEPS} elements and items")

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; raises ImageError `truncated` where bytes are missing."""
        self.count()
        data = super().read(size)
        if size and 0 < len(data) < size:
            raise self.truncated()
        return data

    def truncated(self) -> ImageError:
        """Return the error of a file that ends early."""
        return ImageError("truncated", f"the DICOM file ends early, after {len(self.data)} bytes")

    def header(self, offset: int) -> tuple[int, int, int]:
        """Return the tag and the length of an element or item, and the offset of its value."""
        self.count()
        try:
            group, element, vr, short = struct.unpack_from(self.order + "HH2sH", self.data, offset)
            if group == 0xFFFE or not is_vr(vr):
                short, size = struct.unpack_from(self.order + "I", self.data, offset + 4)[0], 8
            elif vr in LONG_VRS:
                short, size = struct.unpack_from(self.order + "I", self.data, offset + 8)[0], 12
            else:
                size = 8
        except struct.error:
            raise self.truncated() from None
        return group << 16 | element, short, offset + size

    def skip(self, offset: int, length: int) -> int:
        """Return the offset behind a value; where its length is undefined, nesting is counted, not recursed into."""
        depth = int(length == UNDEFINED)
        offset += 0 if depth else length
        while depth:
            tag, length, offset = self.header(offset)
            if tag in (ITEM_END, SEQUENCE_END):
                depth -= 1
            elif length == UNDEFINED:
                depth += 1
            else:
                offset += length
        if offset > len(self.data):
            raise self.truncated()
        return offset

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the start and stop of each item of a sequence, or of each fragment."""
        while start < (len(self.data) if stop is None else stop):
            tag, length, begin = self.header(start)
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise ImageError("invalid_dicom", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) instead of an item")
            start = self.skip(begin, length)
            yield begin, start


def is_vr(code: bytes) -> bool:
    """Tell whether two bytes can be a value representation: two capital letters."""
    return code.isalpha() and code.isupper()


def check_value(keyword: str, size: int) -> None:
    """Refuse a value that is too long to be read."""
    if size > VALUE_BYTES:
        raise ImageError("too_large", f"{keyword} of {size} bytes is over the limit of {VALUE_BYTES}")


def inflate(body: bytes) -> Iterator[bytes]:
    """Yield a deflated data set: the first 16 MiB, and then 8 MiB at a time; raises ImageError `corrupt`."""
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), HEADER_BYTES
    try:
        while block := inflater.decompress(body, size):
            yield block
            body, size = inflater.unconsumed_tail, BLOCK_BYTES
    except zlib.error:
        raise ImageError("corrupt", "the deflated data set is damaged") from None


def check_inflated(size: int) -> None:
    """Refuse a data set that has to be inflated to more than the largest file allowed."""
    if size > MAX_FILE_BYTES:
        raise ImageError("too_large", f"{size} inflated bytes are over the limit of {MAX_FILE_BYTES}")


def check_segments(frame: bytes, segments: int, pixels: int) -> bytes:
    """Return an RLE frame whose segments give a byte for each pixel and no more (PS3.5 G); raises `corrupt`."""
    if len(frame) < 64 or struct.unpack_from("<I", frame)[0] != segments:
        raise ImageError("corrupt", f"the RLE frame does not have {segments} segments")
    bounds = [*struct.unpack_from(f"<{segments}I", frame, 4), len(frame)]
    parts = [_exact(frame[start:stop], pixels) for start, stop in pairwise(bounds)]
    starts = [*accumulate((len(part) for part in parts[:-1]), initial=64), *[0] * (15 - segments)]
    return struct.pack("<16I", segments, *starts) + b"".join(parts)


def _exact(segment: bytes, size: int) -> bytes:
    """Return the part of a PackBits segment that gives `size` bytes; pydicom warns of more, and logs of fewer."""
    place = given = 0
    while given < size and place < len(segment) <= 2 * size + RLE_BYTES:
        code = segment[place]  # to 127: as many bytes and one; from 129: a byte 257 - code times
        count = code + 1 if code < 128 else (257 - code) % 129
        if given + count > size:  # the last run becomes one of single bytes
            count = size - given
            values = segment[place + 1 : place + 1 + count] if code < 128 else segment[place + 1 : place + 2] * count
            segment, code = segment[:place] + bytes([count - 1]) + values, count - 1
        given += count
        place += code + 2 if code < 128 else 2 - (code == 128)
    if given < size or place > len(segment):
        raise ImageError("corrupt", f"an RLE segment of {len(segment)} bytes is damaged, or too long for its image")
    return segment[:place]
