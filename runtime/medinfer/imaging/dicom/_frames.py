"""One frame of a DICOM file as its samples are stored: patterns of 8 or 16 bits, (H, W) or (H, W, 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.encaps import encapsulate, generate_fragments, get_frame, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import unpack_bits

from medinfer.errors import ImageError
from medinfer.imaging._limits import check_file_bytes
from medinfer.imaging.dicom._codestreams import decode_frame
from medinfer.imaging.dicom._elements import Elements
from medinfer.imaging.dicom._format import PixelFormat
from medinfer.imaging.dicom._guards import check_segments

ROOT = "1.2.840.10008.1.2"
IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, RLE = ROOT, f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.1.99", f"{ROOT}.5"
JPEG = {"jpeg": (50, 51), "jpeg_lossless": (57, 70), "jpegls": (80, 81)}
JPEG2000 = {"jpeg2000": (90, 91), "htj2k": (201, 202, 203)}
CODECS = {f"{ROOT}.4.{number}": codec for codec, numbers in {**JPEG, **JPEG2000}.items() for number in numbers}
DECODED = {"YBR_FULL_422": "YBR_FULL", "YBR_ICT": "RGB", "YBR_RCT": "RGB"}
END_OF_IMAGE = b"\xff\xd9"


def stored_samples(elements: Elements, pixels: PixelFormat, syntax: str, index: int) -> tuple[Any, str]:
    """Return the patterns of a frame, unsigned, and its photometric interpretation."""
    if syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
        samples, photometric = _native(elements, pixels, syntax, index), pixels.photometric
    elif syntax != RLE and syntax not in CODECS:
        name = syntax if syntax.replace(".", "").isdigit() else "that is none"
        raise ImageError("unsupported_format", f"transfer syntax {name}", hint="Video and unknown ones are not read.")
    elif pixels.bits == 1:
        raise ImageError("unsupported_dtype", "compressed 1-bit samples")
    elif syntax == RLE:
        frame = check_segments(_compressed(elements, pixels, index), pixels.samples * pixels.bits // 8, pixels.pixels)
        pixels = pixels._replace(frames=1)
        samples, photometric = _by_pydicom(encapsulate([frame]), pixels, RLE, 0), pixels.photometric
    else:
        samples, photometric = decode_frame(_compressed(elements, pixels, index), pixels, CODECS[syntax])
        if samples.dtype.kind == "i":
            samples = samples.astype(f"i{pixels.bits // 8}")
    samples = np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
    return samples.view(f"u{samples.itemsize}"), DECODED.get(photometric, photometric)


def _native(elements: Elements, pixels: PixelFormat, syntax: str, index: int) -> Any:
    _, vr, start, stop = elements.pixels or (0, None, 0, 0)
    data, size = memoryview(elements.source.data)[start:stop], pixels.bytes_of(pixels.frames)
    if elements.encapsulated:
        raise ImageError("invalid_dicom", "compressed pixel data of an unknown transfer syntax")
    swapped = syntax == BIG_ENDIAN and pixels.bits == 8 and vr == "OW"  # two samples in each word
    if len(data) < size + (size % 2 if swapped else 0):
        raise ImageError("truncated", f"{len(data)} bytes of pixel data, not {size}")
    if pixels.bits == 1:
        byte, bit = divmod(index * pixels.pixels, 8)
        bits: Any = unpack_bits(bytes(data[byte : byte + (bit + pixels.pixels + 7) // 8]))
        return bits[bit : bit + pixels.pixels].reshape(pixels.rows, pixels.columns)
    halved = pixels.photometric == "YBR_FULL_422"
    if halved and (pixels.columns % 2 or len(data) * 2 >= size * 3):
        raise ImageError("invalid_dicom", f"{len(data)} bytes of pixel data are not YBR_FULL_422")
    return _by_pydicom(data, pixels, syntax, index, pixel_vr=vr, view_only=not (swapped or halved))


def _by_pydicom(data: Any, pixels: PixelFormat, syntax: str, index: int, **options: Any) -> Any:
    """Return a frame by pydicom; what its validation judges, and warns of, is judged before."""
    options |= {"rows": pixels.rows, "columns": pixels.columns, "number_of_frames": pixels.frames}
    options |= {"samples_per_pixel": pixels.samples, "planar_configuration": pixels.planar}
    options |= {"bits_allocated": pixels.bits, "bits_stored": pixels.bits, "pixel_representation": 0}
    options |= {"photometric_interpretation": pixels.photometric, "pixel_keyword": "PixelData"}
    plugin = "pydicom" if syntax == RLE else ""  # not one that is installed by chance
    return get_decoder(syntax).as_array(data, index=index, raw=True, validate=False, decoding_plugin=plugin, **options)[
        0
    ]


def _compressed(elements: Elements, pixels: PixelFormat, index: int) -> bytes:
    """Return the bytes of one compressed frame, put together from its fragments (PS3.5 A.4)."""
    source, (_, _, start, stop) = elements.source, elements.pixels or (0, None, 0, 0)
    tables = elements.value("ExtendedOffsetTable"), elements.value("ExtendedOffsetTableLengths")
    (first, last), *items = list(source.items(start, stop)) or [(0, 0)]
    ends = sum(END_OF_IMAGE in source.data[max(begin, end - 10) : end] for begin, end in items)
    by_ends = first == last and not all(tables) and len(items) != pixels.frames > 1
    if not items or (by_ends and ends <= index):
        raise ImageError("truncated", f"{len(items)} compressed fragments, not those of {pixels.frames} frames")
    check_file_bytes(sum(end - begin for begin, end in items), pixels.pixels * pixels.frames)
    source.seek(start)
    if pixels.frames == 1:
        parse_basic_offsets(source)
        return b"".join(generate_fragments(source))
    return get_frame(source, index, number_of_frames=pixels.frames, extended_offsets=tables if all(tables) else None)
