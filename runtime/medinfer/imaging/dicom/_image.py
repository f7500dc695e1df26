"""From the bytes of a DICOM file to the levels or colors of one frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging.dicom._elements import Elements
from medinfer.imaging.dicom._format import PixelFormat, read_format
from medinfer.imaging.dicom._frames import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, stored_samples
from medinfer.imaging.dicom._guards import HEADER_BYTES, Source, check_inflated, inflate, is_vr
from medinfer.imaging.dicom._levels import color, gray, palette
from medinfer.spec import Dicom


def show_frame(data: bytes, spec: Dicom, max_pixels: int) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Return one frame as 8-bit levels or colors, and warnings; arguments and errors as of `read_dicom`."""
    source = Source(data)
    start, syntax = _transfer_syntax(source)
    if syntax == DEFLATED:
        elements, pixels, index = _inflated(source, start, spec, max_pixels)
    else:
        source.order = ">" if syntax == BIG_ENDIAN else "<"
        source.seek(start)
        elements = Elements(source)
        pixels, index = _checked(elements, spec, max_pixels), spec.frame
    samples, photometric = stored_samples(elements, pixels, syntax, index)
    if photometric.startswith("MONOCHROME"):
        return gray(elements, pixels, samples, spec)
    if photometric == "PALETTE COLOR":
        return palette(elements, pixels, samples), ()
    return color(pixels, samples, photometric), ()


def _transfer_syntax(source: Source) -> tuple[int, str]:
    """Return where the data set starts, and its transfer syntax; without file meta, that of its first element."""
    first = 132 if source.data[128:132] == b"DICM" else 0
    source.seek(first)
    meta = Elements(source, group=2)
    start, syntax = source.tell(), meta.text("TransferSyntaxUID")
    if syntax:
        return start, syntax
    if start > first or len(source.data) < start + 8:
        raise ImageError("invalid_dicom", "(0002,0010), the transfer syntax, is missing")
    if not is_vr(source.data[start + 4 : start + 6]):
        return start, IMPLICIT
    # Group 8 in the other byte order is 2048.
    return start, BIG_ENDIAN if struct.unpack_from("<H", source.data, start)[0] >= 1 << 10 else EXPLICIT


def _checked(elements: Elements, spec: Dicom, max_pixels: int) -> PixelFormat:
    pixels = read_format(elements, max_pixels)
    if spec.frame >= pixels.frames:
        raise ImageError("multi_frame", f"frame {spec.frame} of a file with {pixels.frames}, counted from 0")
    return pixels


def _inflated(source: Source, start: int, spec: Dicom, max_pixels: int) -> tuple[Elements, PixelFormat, int]:
    """Inflate a data set up to the end of a frame; of its pixel data only that frame is kept."""
    blocks = inflate(source.data[start:])
    header = next(blocks, b"")
    elements = _read_header(header)
    pixels = _checked(elements, spec, max_pixels)
    tag, vr, begin, _ = elements.pixels or (0, None, 0, 0)
    before = spec.frame // 8 * 8 if pixels.bits == 1 else spec.frame  # eight frames of bits are whole bytes
    stop = begin + pixels.bytes_of(spec.frame + 1)
    check_inflated(stop)
    frame = _cut(chain([header], blocks), begin + pixels.bytes_of(before), stop)
    elements.source = Source(header[:begin] + frame, "<", elements.source.steps)
    elements.pixels = tag, vr, begin, begin + len(frame)
    return elements, pixels._replace(frames=spec.frame + 1 - before), spec.frame - before


def _read_header(header: bytes) -> Elements:
    try:
        return Elements(Source(header))
    except ImageError as error:
        if error.code != "truncated" or len(header) < HEADER_BYTES:
            raise
        raise ImageError("too_large", f"no pixel data in {len(header)} inflated bytes") from None


def _cut(blocks: Iterator[bytes], start: int, stop: int) -> bytes:
    """Return the bytes between two offsets, or those of them that there are."""
    parts, place = [], 0
    for block in blocks:
        parts.append(block[max(0, start - place) : max(0, stop - place)])
        place += len(block)
        if place >= stop:
            break
    return b"".join(parts)
