"""The elements of a DICOM file as they stand in it, read in place: header first, and the pixel data only located.

As `headers.py` does for the other formats, and for the same reason: sizes are judged before anything is allocated.
pydicom reads every element of a file, and what it doubts it tells by warnings, which no thread can keep from the
process it runs in; here nothing warns, nothing recurses, and no element about a patient is ever looked at.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from medinfer.errors import ImageError

PIXEL_DATA = 0x7FE00010
PIXEL_ELEMENTS = frozenset({PIXEL_DATA, 0x7FE00009, 0x7FE00008})  # of integers, doubles and floats
# Image Pixel and the modules of look-up tables, functional groups of multi-frame files, pixel data.
GROUPS_KEPT = frozenset({0x0002, 0x0028, 0x5200, 0x7FE0})

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONG_FORMS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


@dataclass(frozen=True)
class Encoded:
    """Bytes, and how elements stand in them (DICOM PS3.5 7.1)."""

    data: memoryview
    explicit: bool = True
    """Elements name their VR. Those that do not are told by what stands there: files mix both forms."""
    order: str = "<"
    """Byte order, as in `struct`."""

    def header(self, offset: int) -> tuple[int, str, int, int]:
        """Return an element's tag, its VR ("" where it is left out), where its value starts, and its length."""
        try:
            group, element = struct.unpack_from(self.order + "HH", self.data, offset)
            tag, vr = group << 16 | element, bytes(self.data[offset + 4 : offset + 6])
            if group == 0xFFFE or not (self.explicit and is_vr(vr)):
                return tag, "", offset + 8, struct.unpack_from(self.order + "I", self.data, offset + 4)[0]
            if vr in LONG_FORMS:
                return tag, vr.decode(), offset + 12, struct.unpack_from(self.order + "I", self.data, offset + 8)[0]
            return tag, vr.decode(), offset + 8, struct.unpack_from(self.order + "H", self.data, offset + 6)[0]
        except struct.error:
            raise self.truncated() from None

    def after(self, offset: int, length: int) -> int:
        """Return the offset behind a value; where its length is undefined, nesting is counted, never recursed into."""
        depth = int(length == UNDEFINED)
        offset += 0 if depth else length
        while depth:
            tag, _, offset, length = self.header(offset)
            if tag in (ITEM_END, SEQUENCE_END):
                depth -= 1
            elif length == UNDEFINED:
                depth += 1
            else:
                offset += length
        if offset > len(self.data):
            raise self.truncated()
        return offset

    def items(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the start and stop of each item: of a sequence, or the fragments of compressed pixel data."""
        while start < stop:
            tag, _, begin, length = self.header(start)
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise ImageError("invalid_dicom", f"{name(tag)} stands where an item of a sequence should")
            start = self.after(begin, length)
            yield begin, start

    def truncated(self) -> ImageError:
        """Return the error of a file that ends within an element."""
        return ImageError("truncated", f"the DICOM file ends early, after {len(self.data)} bytes")


class Elements:
    """The elements between two offsets, up to the pixel data: a data set, or one item of a sequence.

    Its methods raise ImageError `invalid_dicom` for a value that is not what its tag says.

    Raises:
        ImageError: `truncated`.
    """

    def __init__(self, source: Encoded, start: int, stop: int) -> None:
        self.source = source
        self._found: dict[int, tuple[str, int, int]] = {}
        while start < stop:
            tag, vr, begin, length = source.header(start)
            if tag in PIXEL_ELEMENTS:
                self._found[tag] = (vr, begin, len(source.data) if length == UNDEFINED else begin + length)
                return
            start = source.after(begin, length)
            if tag >> 16 in GROUPS_KEPT:
                self._found[tag] = (vr, begin, start)

    def __contains__(self, tag: int) -> bool:
        """Tell whether an element is there and not empty."""
        start, stop = self.span(tag)
        return stop > start

    def vr(self, tag: int) -> str:
        """Return the value representation; "" where the file leaves it out."""
        return self._found[tag][0] if tag in self._found else ""

    def span(self, tag: int) -> tuple[int, int]:
        """Return where a value starts and stops; that of pixel data may stop behind the end of the bytes."""
        return self._found[tag][1:] if tag in self._found else (0, 0)

    def value(self, tag: int) -> memoryview:
        """Return a value's bytes; none where the element is missing."""
        start, stop = self.span(tag)
        return self.source.data[start:stop]

    def text(self, tag: int) -> str:
        """Return the first of a text's values, without its padding."""
        return bytes(self.value(tag)).decode("ascii", "replace").split("\\")[0].strip(" \0")

    def number(self, tag: int) -> float | None:
        """Return the first of the numbers that are written as text (DS, IS); None where there is none."""
        text = self.text(tag)
        if not text:
            return None
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(text)):
                return number
        # The text is not told: where an element is wrong, it may be anybody's name.
        raise ImageError("invalid_dicom", f"{name(tag)} is not a number")

    def integer(self, tag: int, default: int | None = None) -> int:
        """Return the first of the unsigned integers of 16 bits, or, against the standard, of 32."""
        if tag not in self:
            if default is None:
                raise ImageError("invalid_dicom", f"{name(tag)} is missing")
            return default
        long = self.vr(tag) in ("UL", "SL") or (not self.vr(tag) and len(self.value(tag)) == 4)
        return self.words(tag, 1, "I" if long else "H")[0]

    def words(self, tag: int, count: int, kind: str = "H") -> tuple[int, ...]:
        """Return the first integers of a value, `kind` as in `struct`."""
        try:
            return struct.unpack_from(f"{self.source.order}{count}{kind}", self.value(tag))
        except struct.error:
            raise ImageError("invalid_dicom", f"{name(tag)} has {len(self.value(tag))} bytes") from None

    def item(self, tag: int, index: int = 0) -> Elements | None:
        """Return one item of a sequence; None where it has fewer."""
        for number, (start, stop) in enumerate(self.source.items(*self.span(tag))):
            if number == index:
                return Elements(self.source, start, stop)
        return None


def is_vr(code: bytes) -> bool:
    """Tell whether two bytes can be a value representation: two capital letters."""
    return code.isalpha() and code.isupper()


def name(tag: int) -> str:
    """Return a tag as DICOM writes it: (0028,0010)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def after_file_meta(data: memoryview) -> int:
    """Return where the data set starts: behind the elements of group 2, always explicit and little-endian."""
    source, offset = Encoded(data), 132
    while offset < len(data):
        tag, _, begin, length = source.header(offset)
        if tag >> 16 != 2:
            break
        offset = source.after(begin, length)
    return offset
