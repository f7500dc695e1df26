"""The elements of a DICOM file, read by pydicom. Every limit is here, and judged before pydicom allocates or loops.

No element of a patient is read. The Python warnings of pydicom are left to the program that uses this package.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.multival import MultiValue

from medinfer.errors import ImageError

STEPS = 500_000
"""Reads of a file: 1 s of CPU time for empty elements, 3 s for items. A frame's functional group takes about 60."""
VALUE_BYTES = 2 << 16
"""Of a value: a LUT has 65,536 entries of 2 bytes at most. Only pixels and functional groups are longer."""
INFLATED_BYTES = 256 << 20
"""Of a deflated data set: an image of 16 bits and 100 megapixels has 200 MB."""
UNDEFINED = 0xFFFFFFFF
DEFLATED = "1.2.840.10008.1.2.1.99"
PALETTE = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
NAMES = """
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept ModalityLUTSequence
WindowCenter WindowWidth VOILUTFunction VOILUTSequence ExtendedOffsetTable ExtendedOffsetTableLengths
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelData
"""
NAMES += " ".join(name + part for name in PALETTE for part in ("Descriptor ", "Data "))
TAGS: list[Any] = [*NAMES.split(), *FLOATS]


class Source(io.BytesIO):
    """Bytes whose reads are counted: in one iterator for a file and all its items."""

    def __init__(self, data: bytes, steps: Iterator[int] | None = None) -> None:
        super().__init__(data)
        self.data, self.steps = data, steps or iter(range(STEPS))
        self.short = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; raises ImageError `too_large` beyond the limit."""
        if next(self.steps, None) is None:
            raise ImageError("too_large", f"the DICOM file takes more than {STEPS} reads: it has too many elements")
        data = super().read(size)
        self.short |= len(data) < (size or 0) and (size != 8 or bool(data))  # at the end, pydicom reads 8 and has 0
        return data


class Elements:
    """The elements of a data set or an item; its methods raise ImageError `too_large`, or what pydicom raises."""

    def __init__(self, source: Source, dataset: Dataset) -> None:
        self.source, self.dataset = source, dataset
        self.pixels: Any = dataset.get_item("PixelData", keep_deferred=True)

    def raw(self, keyword: str, limit: int = VALUE_BYTES) -> Any:
        """Return an element as it is stored; None where it is missing or empty."""
        element: Any = self.dataset.get_item(keyword, keep_deferred=True)
        if not isinstance(element, RawDataElement):
            return element
        if limit < element.length < UNDEFINED:
            raise ImageError("too_large", f"{keyword} of {element.length} bytes is over the limit of {limit}")
        return element if element.length else None

    def value(self, keyword: str) -> Any:
        """Return the first value; None where there is none."""
        value: Any = self.dataset[keyword].value if self.raw(keyword) else None
        value = value[0] if isinstance(value, MultiValue) and value else value
        return None if value == "" else value

    def number(self, keyword: str) -> float | None:
        """Return the first value as a number."""
        value = self.value(keyword)
        if value is not None and not math.isfinite(value):
            raise ImageError("invalid_dicom", f"{keyword} is not a number")
        return None if value is None else float(value)

    def items(self, keyword: str) -> list[Elements]:
        """Return the items of a sequence."""
        element = self.raw(keyword, UNDEFINED)
        if isinstance(element, RawDataElement):
            value = element.value or self.source.data[element.value_tell : element.value_tell + element.length]
            order = element.is_implicit_VR, element.is_little_endian
            items = read_sequence(Source(value, self.source.steps), *order, len(value), "iso8859")
        else:
            items = element.value if element else []
        return [Elements(self.source, item) for item in items]

    def of_frame(self, frame: int) -> Elements:
        """Return the elements that hold for a frame: of its functional group, of the shared one, of the data set."""
        merged = Elements(self.source, Dataset(self.dataset))
        for groups, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
            for group in self.items(groups)[index : index + 1]:
                for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                    for item in group.items(macro)[:1]:
                        merged.dataset.update(item.dataset)
        return merged


def read_elements(data: bytes) -> Elements:
    """Read a file; raises ImageError `truncated`, `too_large`."""
    source = Source(data)
    elements = Elements(source, dcmread(source, defer_size=VALUE_BYTES, force=True, specific_tags=TAGS))
    if elements.pixels is None and (source.short or source.tell() > len(data)):
        raise ImageError("truncated", f"the DICOM file ends early, after {len(data)} bytes")
    return elements


def inflated(data: bytes) -> bytes:
    """Return a deflated file as an uncompressed one; other files as they are."""
    source = Source(data)
    source.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(source, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return data
    start = source.tell()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(data[start:], INFLATED_BYTES)
    except zlib.error:
        raise ImageError("corrupt", "the deflated data set is damaged") from None
    if len(body) == INFLATED_BYTES:
        raise ImageError("too_large", f"the deflated data set has over {INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise ImageError("truncated", f"the deflated data set ends early, after {len(data)} bytes")
    return data[:start].replace(b".1.2.1.99", b".1.2.1\0\0\0") + body
