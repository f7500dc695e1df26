"""One frame of a DICOM file: its samples as they are stored, and what they are shown as."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import unpack_bits

from medinfer.errors import ImageError
from medinfer.imaging.dicom._codestreams import decode_frame
from medinfer.imaging.dicom._elements import UNDEFINED, Elements, inflated, read_elements
from medinfer.imaging.dicom._format import GRAY, PixelFormat, read_format
from medinfer.imaging.dicom._levels import Levels, color, gray, palette
from medinfer.spec import Dicom

ROOT = "1.2.840.10008.1.2"
IMPLICIT, EXPLICIT, BIG_ENDIAN, RLE = ROOT, f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.5"
NUMBERS = {
    "jpeg": (50, 51),
    "jpeg_lossless": (57, 70),
    "jpegls": (80, 81),
    "jpeg2000": (90, 91),
    "htj2k": (201, 202, 203),
}
CODECS = {f"{ROOT}.4.{number}": codec for codec, numbers in NUMBERS.items() for number in numbers}
DECODED = {"YBR_FULL_422": "YBR_FULL", "YBR_ICT": "RGB", "YBR_RCT": "RGB"}
RLE_BYTES = 1 << 10
"""An RLE segment of n pixels has at most 2 n bytes, PackBits at its worst, and these."""


def show_frame(data: bytes, spec: Dicom, max_pixels: int) -> tuple[Levels, tuple[str, ...]]:
    """Return one frame as 8-bit levels or colors, and warnings; arguments and errors as of `read_dicom`."""
    plain = inflated(data)
    elements = read_elements(plain)
    pixels = read_format(elements, len(plain), max_pixels)
    if spec.frame >= pixels.number_of_frames:
        raise ImageError("multi_frame", f"frame {spec.frame} of a file with {pixels.number_of_frames}, counted from 0")
    samples, photometric = _stored_samples(elements, pixels, spec.frame)
    if photometric.startswith("MONOCHROME"):
        return gray(elements.of_frame(spec.frame), pixels, samples, spec)
    return palette(elements, pixels, samples) if photometric in GRAY else color(pixels, samples, photometric), ()


def _stored_samples(elements: Elements, pixels: PixelFormat, index: int) -> tuple[Any, str]:
    """Return the patterns of a frame, unsigned, and its photometric interpretation."""
    syntax, photometric = _transfer_syntax(elements), pixels.photometric_interpretation
    if syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        samples = _native(elements, pixels, syntax, index)
    elif syntax != RLE and syntax not in CODECS:
        name = syntax if syntax.replace(".", "").isdigit() else "that is none"
        raise ImageError("unsupported_format", f"transfer syntax {name}", hint="Video and unknown ones are not read.")
    elif pixels.bits_allocated == 1:
        raise ImageError("unsupported_dtype", "compressed 1-bit samples")
    elif syntax == RLE:
        samples = _run_lengths(_compressed(elements, pixels, index), pixels)
    else:
        samples, photometric = decode_frame(_compressed(elements, pixels, index), pixels, CODECS[syntax])
    samples = np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
    return samples.view(f"u{samples.itemsize}"), DECODED.get(photometric, photometric)


def _transfer_syntax(elements: Elements) -> str:
    """Return the transfer syntax; without file meta information, the one that pydicom guessed."""
    meta: Any = elements.dataset.file_meta
    if syntax := meta.get("TransferSyntaxUID"):
        return str(syntax)
    data = elements.source.data
    start = 132 if data[128:132] == b"DICM" else 0
    if meta or data[start : start + 2] not in (b"\x08\0", b"\0\x08"):
        raise ImageError("invalid_dicom", "(0002,0010), the transfer syntax, is missing")
    implicit, little = elements.dataset.original_encoding
    return IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN


def _native(elements: Elements, pixels: PixelFormat, syntax: str, index: int) -> Any:
    raw, size, halved = elements.pixels, pixels.bytes, "_422" in pixels.photometric_interpretation
    if raw.length == UNDEFINED:
        raise ImageError("invalid_dicom", "compressed pixel data of an unknown transfer syntax")
    data = memoryview(elements.source.data)[raw.value_tell : raw.value_tell + raw.length]
    swapped = syntax == BIG_ENDIAN and pixels.bits_allocated == 8 and raw.VR == "OW"  # two samples in each word
    if len(data) < size + (size % 2 if swapped else 0):
        raise ImageError("truncated", f"{len(data)} bytes of pixel data, not {size}")
    if halved and (pixels.columns % 2 or len(data) * 2 >= size * 3):
        raise ImageError("invalid_dicom", f"{len(data)} bytes of pixel data are not YBR_FULL_422")
    if pixels.bits_allocated == 1:  # pydicom reads too few bytes of some frames
        byte, bit = divmod(index * pixels.pixels, 8)
        bits: Any = unpack_bits(bytes(data[byte : byte + (bit + pixels.pixels + 7) // 8]))
        return bits[bit : bit + pixels.pixels].reshape(pixels.rows, pixels.columns)
    return _by_pydicom(data, pixels, syntax, index, pixel_vr=raw.VR, view_only=not (swapped or halved))


def _by_pydicom(data: Any, pixels: PixelFormat, syntax: str, index: int, **options: Any) -> Any:
    options |= {**pixels._asdict(), "pixel_keyword": "PixelData", "correct_unused_bits": False}
    return get_decoder(syntax).as_array(data, index=index, raw=True, validate=False, **options)[0]


def _run_lengths(frame: bytes, pixels: PixelFormat) -> Any:
    count, *starts = struct.unpack_from("<16I", frame.ljust(64, b"\0"))
    stops = [*starts[1 : min(count, 15)], len(frame)]
    if any(stop - start > 2 * pixels.pixels + RLE_BYTES for start, stop in zip(starts, stops, strict=False)):
        raise ImageError("corrupt", f"an RLE segment is too long for {pixels.pixels} pixels")
    # pydicom only warns of a segment that goes on after its last pixel. One byte may pad it to an even length.
    if any(_size_of_runs(frame[start:stop]) > pixels.pixels + 1 for start, stop in zip(starts, stops, strict=False)):
        raise ImageError("corrupt", f"an RLE segment of more than {pixels.pixels} pixels")
    try:
        single = pixels._replace(number_of_frames=1)
        return _by_pydicom(encapsulate([frame]), single, RLE, 0, decoding_plugin="pydicom")
    except RuntimeError:
        raise ImageError("corrupt", "an RLE segment is damaged") from None


def _size_of_runs(segment: bytes) -> int:
    """Return how many bytes a PackBits segment becomes."""
    place = size = 0
    while place < len(segment):
        code = segment[place]
        size += code + 1 if code < 128 else (257 - code) % 129
        place += code + 2 if code < 128 else 2 - (code == 128)
    return size


def _compressed(elements: Elements, pixels: PixelFormat, index: int) -> bytes:
    """Return the bytes of one compressed frame, put together from its fragments (PS3.5 A.4)."""
    tables = [elements.raw(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets, frames = (tables[0].value, tables[1].value) if all(tables) else None, pixels.number_of_frames
    elements.source.seek(elements.pixels.value_tell)
    try:
        frame = get_frame(elements.source, index, number_of_frames=frames, extended_offsets=offsets)
    except (ValueError, struct.error):
        raise ImageError("truncated", f"the compressed pixels have no frame {index} of {frames}") from None
    elements.source.read(0)  # pydicom takes an error of the limit for the end
    return frame
