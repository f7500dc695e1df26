"""One frame of a DICOM file as its samples are stored: (H, W) or (H, W, 3), patterns of 8 or 16 bits.

What decoding would allocate is judged first: by the data set, and by the header of the compressed frame, which has to
say the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging.dicom._elements import PIXEL_DATA, Elements

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
END = b"\xff\xd9"  # of JPEG and JPEG 2000


@dataclass(frozen=True)
class PixelFormat:
    """How the pixel data are laid out (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    samples: int
    planar: bool
    bits: int
    """Bits of a sample as it is stored: 8 or 16"""
    stored: int
    """How many of them, the low ones, are the number"""
    signed: bool
    photometric: str

    @property
    def frame_bytes(self) -> int:
        """Size of an uncompressed frame."""
        halves = 4 if self.photometric == "YBR_FULL_422" else 2 * self.samples  # two pixels share their chroma
        return self.rows * self.columns * halves * (self.bits // 8) // 2


def pixel_format(elements: Elements, max_pixels: int) -> PixelFormat:
    """Read and judge the Image Pixel module.

    Raises:
        ImageError: `unsupported_format`, `unsupported_dtype`, `too_large`, `truncated`, `invalid_dicom`.
    """
    rows, columns = elements.integer(0x00280010, 0), elements.integer(0x00280011, 0)
    _check_picture(elements, rows, columns, max_pixels)
    bits = elements.integer(0x00280100)
    if bits not in (8, 16):
        raise ImageError("unsupported_dtype", f"{bits}-bit samples; 8 or 16 bit are supported")
    stored = elements.integer(0x00280101, bits)
    if not 1 <= stored <= bits or elements.integer(0x00280102, stored - 1) != stored - 1:
        raise ImageError("invalid_dicom", f"{stored} bits of {bits} are stored, and the highest is not {stored - 1}")
    photometric = elements.text(0x00280004)
    samples = elements.integer(0x00280002, 1)
    _check_color(photometric, samples, bits)
    frames = elements.number(0x00280008) or 1
    if frames % 1 or frames < 1:
        raise ImageError("invalid_dicom", f"{frames:g} frames")
    planar = elements.integer(0x00280006, 0) == 1
    signed = elements.integer(0x00280103, 0) == 1
    return PixelFormat(rows, columns, int(frames), samples, planar, bits, stored, signed, photometric)


def _check_picture(elements: Elements, rows: int, columns: int, max_pixels: int) -> None:
    if any(tag in elements for tag in FLOAT_PIXELS):
        raise ImageError("unsupported_dtype", "floating-point samples; 8 or 16 bit are supported")
    if not rows and not columns and PIXEL_DATA not in elements:
        hint = "Reports, plans, directories and the like hold none."
        raise ImageError("unsupported_format", "a DICOM file without a picture", hint=hint)
    if rows < 1 or columns < 1:
        raise ImageError("invalid_dicom", f"a picture of {columns}x{rows} pixels")
    if rows * columns > max_pixels:
        raise ImageError("too_large", f"{columns}x{rows} pixels is over the limit of {max_pixels}")
    if PIXEL_DATA not in elements:
        raise ImageError("truncated", "the pixel data are missing")


def _check_color(photometric: str, samples: int, bits: int) -> None:
    if not photometric:
        raise ImageError("invalid_dicom", "(0028,0004), the photometric interpretation, is missing")
    if photometric not in GRAY + COLOR:
        known = ", ".join(GRAY + COLOR)
        raise ImageError("unsupported_format", f"a photometric interpretation that is none of {known}")
    if samples != (1 if photometric in GRAY else 3):
        raise ImageError("invalid_dicom", f"{photometric} with {samples} samples a pixel")
    if photometric in COLOR and bits != 8:
        raise ImageError("unsupported_dtype", f"{photometric} of {bits}-bit samples; 8 bit are supported")


def native_frame(elements: Elements, pixels: PixelFormat, index: int) -> Samples:
    """Return an uncompressed frame; raises ImageError `truncated` where there are fewer bytes than in all frames."""
    order = elements.source.order
    swapped = order == ">" and pixels.bits == 8 and elements.vr(PIXEL_DATA) == "OW"  # two samples in each word
    data, whole = elements.value(PIXEL_DATA), pixels.frames * pixels.frame_bytes
    if len(data) < whole + (whole % 2 if swapped else 0):
        raise ImageError("truncated", f"{len(data)} bytes of pixel data, not {whole}")
    start, stop = index * pixels.frame_bytes, (index + 1) * pixels.frame_bytes
    if swapped:
        words = np.frombuffer(data[start // 2 * 2 : (stop + 1) // 2 * 2], ">u2")
        flat: Any = words.astype("<u2").view(np.uint8)[start % 2 :][: stop - start]
    else:
        flat = np.frombuffer(data[start:stop], f"{order}u{pixels.bits // 8}")
    if pixels.photometric == "YBR_FULL_422":
        return _full_chroma(flat, pixels, len(data))
    return _shaped(flat, pixels, planar=pixels.planar)


def _full_chroma(flat: Any, pixels: PixelFormat, length: int) -> Samples:
    """Return Y Cb Cr of each pixel, from Y Y Cb Cr of each two."""
    if pixels.columns % 2 or length >= 3 * pixels.rows * pixels.columns * pixels.frames:
        raise ImageError("invalid_dicom", f"{length} bytes of pixel data are not YBR_FULL_422")
    return _shaped(flat.reshape(-1, 4)[:, [0, 2, 3, 1, 2, 3]], pixels, planar=False)


def _shaped(flat: Any, pixels: PixelFormat, *, planar: bool) -> Samples:
    if pixels.samples == 1:
        shaped: Samples = flat.reshape(pixels.rows, pixels.columns)
    elif planar:
        shaped = np.moveaxis(flat.reshape(3, pixels.rows, pixels.columns), 0, 2)
    else:
        shaped = flat.reshape(pixels.rows, pixels.columns, 3)
    return shaped


def compressed_frame(elements: Elements, pixels: PixelFormat, index: int) -> bytes:
    """Return the bytes of one compressed frame, put together of its fragments (PS3.5 A.4).

    Raises:
        ImageError: `truncated`, `invalid_dicom`.
    """
    source = elements.source
    found = list(source.items(*elements.span(PIXEL_DATA)))
    table, fragments = found[:1], found[1:]
    if not fragments:
        raise ImageError("truncated", "the compressed pixel data are missing")
    starts = _frame_starts(source.data, *table[0], count=pixels.frames)
    if pixels.frames == 1:
        chosen = fragments
    elif starts:
        bounds = [*starts, len(source.data)]
        chosen = [part for part in fragments if bounds[index] <= part[0] - 8 < bounds[index + 1]]
    elif len(fragments) == pixels.frames:
        chosen = [fragments[index]]
    else:
        chosen = _by_end_marks(source.data, fragments, index)
    return b"".join(source.data[begin:end] for begin, end in chosen)


def _frame_starts(data: memoryview, start: int, stop: int, count: int) -> list[int]:
    """Return where each frame's first fragment stands, by the basic offset table; empty where that is empty."""
    if stop - start != 4 * count:
        return []
    return [stop + offset for offset in struct.unpack_from(f"<{count}I", data, start)]


def _by_end_marks(data: memoryview, fragments: list[tuple[int, int]], index: int) -> list[tuple[int, int]]:
    """Return a frame's fragments where nothing but the end marks of JPEG tells the frames apart."""
    frames: list[list[tuple[int, int]]] = [[]]
    for begin, end in fragments:
        frames[-1].append((begin, end))
        if END in bytes(data[max(begin, end - 10) : end]):
            frames.append([])
    if index >= len(frames) - 1:  # the last list is of what has no end
        raise ImageError("truncated", f"{len(frames) - 1} compressed frames, not {index + 1}")
    return frames[index]


def rle_frame(frame: bytes, pixels: PixelFormat) -> Samples:
    """Decode RLE Lossless (PS3.5 G): for each sample, and each of its bytes, the high one first, a segment.

    Raises:
        ImageError: `corrupt`.
    """
    size, depth = pixels.rows * pixels.columns, pixels.bits // 8
    try:
        count, *starts = struct.unpack_from("<16I", frame)
        if count != pixels.samples * depth:
            raise ImageError("corrupt", f"{count} RLE segments, not {pixels.samples * depth}")
        bounds = [*starts[:count], len(frame)]
        planes = [_unpack_bits(frame[bounds[i] : bounds[i + 1]], size) for i in range(count)]
    except (struct.error, IndexError):
        raise ImageError("corrupt", "an RLE segment ends before its picture does") from None
    flat: Any = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=-1)
    return _shaped(flat.view(f">u{depth}"), pixels, planar=False)


def _unpack_bits(segment: bytes, size: int) -> bytearray:
    """Undo PackBits until there are `size` bytes, whatever more the segment would give."""
    unpacked, place = bytearray(), 0
    while len(unpacked) < size:
        count = segment[place]
        if count < 128:  # so many bytes and one as they are
            unpacked += segment[place + 1 : place + 2 + count]
            place += 2 + count
        else:  # one byte again and again; 128 stands for nothing
            unpacked += segment[place + 1 : place + 2] * (257 - count if count > 128 else 0)
            place += 2 if count > 128 else 1
    return unpacked[:size]
