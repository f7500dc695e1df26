"""The elements of a DICOM data set, read by pydicom, up to its pixel data.

pydicom warns of what it repairs, and warnings are of the whole process. So only those of its functions are called that
do not warn: sequences are parsed item by item, and numbers in text are not validated. No element of a patient is read.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.filereader import data_element_generator
from pydicom.values import convert_numbers

from medinfer.errors import ImageError
from medinfer.imaging.dicom._guards import UNDEFINED, Source, check_value, is_vr

PALETTE = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
NAMES = """
TransferSyntaxUID SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
RescaleSlope RescaleIntercept ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence
LUTDescriptor LUTData SegmentedRedPaletteColorLookupTableData ExtendedOffsetTable ExtendedOffsetTableLengths
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelValueTransformationSequence FrameVOILUTSequence
"""
KEYWORDS = NAMES.split() + [name + part for name in PALETTE for part in ("Descriptor", "Data")]
TAGS: dict[Any, str] = {tag_for_keyword(keyword): keyword for keyword in KEYWORDS}
PIXEL_DATA, FLOATS, CHARACTER_SET = 0x7FE00010, (0x7FE00008, 0x7FE00009), 0x00080005


class Elements:
    """The elements of a data set or an item, from where a source is; only those of one group, if it is given.

    Raises:
        ImageError: `truncated`, `too_large`; its methods `invalid_dicom` for a value of another kind.
    """

    def __init__(self, source: Source, group: int | None = None) -> None:
        self.source, self._group = source, group
        self.pixels: tuple[int, str | None, int, int] | None = None
        """The tag and VR of the pixel data, and where they start and stop"""
        self.encapsulated = False
        self._values: dict[str, tuple[str | None, bytes]] = {}
        start = source.tell()
        implicit = not is_vr(source.data[start + 4 : start + 6])  # files misstate it
        while self._read(implicit):
            continue

    def _read(self, implicit: bool) -> bool:
        """Read up to an element that is not pydicom's to read; return whether there is more after it."""
        self._stop: tuple[int, str | None, int, int] | None = None
        little, tags = self.source.order == "<", list(TAGS)
        for raw in data_element_generator(self.source, implicit, little, self._stops, specific_tags=tags):
            self._values[TAGS[raw.tag]] = raw.VR, raw.value or b""
        if self._stop is None or self._is_other(self._stop[0]):
            return False
        tag, vr, start, length = self._stop
        if tag == PIXEL_DATA or tag in FLOATS:
            self.encapsulated = length == UNDEFINED
            self.pixels = tag, vr, start, len(self.source.data) if length == UNDEFINED else start + length
            return False
        end = self.source.skip(start, length)
        if tag in TAGS:
            check_value(TAGS[tag], end - start)
            self._values[TAGS[tag]] = "SQ", self.source.data[start:end]
        self.source.seek(end)
        return True

    def _is_other(self, tag: int) -> bool:
        return self._group is not None and tag >> 16 != self._group

    def _stops(self, tag: int, vr: str | None, length: int) -> bool:
        """Stop pydicom at sequences, into which it recurses, character sets, of which it warns, and pixel data."""
        start, pixels = self.source.tell(), tag == PIXEL_DATA or tag in FLOATS
        if pixels or length == UNDEFINED or tag == CHARACTER_SET or self._is_other(tag):
            self._stop = tag, vr, start, length
            return True
        if start + length > len(self.source.data):
            raise self.source.truncated()
        if tag in TAGS:
            check_value(TAGS[tag], length)
        return False

    def __contains__(self, keyword: str) -> bool:
        return bool(self.value(keyword))

    def vr(self, keyword: str) -> str | None:
        """Return the value representation; None where the file leaves it out."""
        return self._values.get(keyword, (None, b""))[0]

    def value(self, keyword: str) -> bytes:
        """Return the bytes of a value; none where the element is missing."""
        return self._values.get(keyword, (None, b""))[1]

    def text(self, keyword: str) -> str:
        """Return the first of the texts, without its padding."""
        return self.value(keyword).decode("ascii", "replace").split("\\")[0].strip(" \0")

    def number(self, keyword: str) -> float | None:
        """Return the first of the numbers that are written as text (DS, IS); None where there is none."""
        if not (text := self.text(keyword)):
            return None
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(text)):
                return number
        raise ImageError("invalid_dicom", f"{keyword} is not a number")  # not quoted: it may be anyone's name

    def integers(self, keyword: str) -> list[int]:
        """Return unsigned integers of 16 bits, or, where a file has such against the standard, of 32."""
        vr, value = self.vr(keyword), self.value(keyword)
        kind = "I" if vr in ("UL", "SL") or (vr is None and len(value) == 4) else "H"
        try:
            numbers: Any = convert_numbers(value, self.source.order == "<", kind)
        except ValueError:
            raise ImageError("invalid_dicom", f"{keyword} has {len(value)} bytes") from None
        return [numbers] if isinstance(numbers, int) else list(numbers)

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return the first of the integers."""
        if keyword not in self and default is None:
            raise ImageError("invalid_dicom", f"{keyword} is missing")
        return self.integers(keyword)[0] if keyword in self else default or 0

    def item(self, keyword: str, index: int = 0) -> Elements | None:
        """Return one item of a sequence; None where it has fewer."""
        sequence = Source(self.value(keyword), self.source.order, self.source.steps)
        for number, (start, stop) in enumerate(sequence.items()):
            if number == index:
                return Elements(sequence.part(start, stop))
        return None
