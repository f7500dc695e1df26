"""The layout of the pixel data (PS3.3 C.7.6.3), judged before anything is decoded."""

from __future__ import annotations

from typing import NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging.dicom._elements import FLOATS, Elements

GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


class PixelFormat(NamedTuple):
    """The layout of the pixel data; a sample has `bits`, of which the low ones are `stored`."""

    rows: int
    columns: int
    frames: int
    samples: int
    planar: int
    bits: int
    stored: int
    signed: bool
    photometric: str

    @property
    def pixels(self) -> int:
        """Number of pixels of a frame."""
        return self.rows * self.columns

    def bytes_of(self, frames: int) -> int:
        """Return the size of uncompressed frames; in YBR_FULL_422, two pixels share their chroma."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return (frames * self.pixels * samples * self.bits + 7) // 8


def read_format(elements: Elements, max_pixels: int) -> PixelFormat:
    """Read the Image Pixel module; raises ImageError for all that is not supported."""
    rows, columns = elements.integer("Rows", 0), elements.integer("Columns", 0)
    _check_image(elements, rows, columns, max_pixels)
    bits, photometric = elements.integer("BitsAllocated"), elements.text("PhotometricInterpretation")
    if bits not in (1, 8, 16):
        raise ImageError("unsupported_dtype", f"{bits}-bit samples; 1, 8 or 16 bit are supported")
    stored, samples = elements.integer("BitsStored", bits), elements.integer("SamplesPerPixel", 1)
    if not 1 <= stored <= bits or elements.integer("HighBit", stored - 1) != stored - 1:
        raise ImageError("invalid_dicom", f"{stored} of {bits} bits are stored, and the highest is not {stored - 1}")
    if photometric and photometric not in GRAY + COLOR:
        raise ImageError("unsupported_format", f"a photometric interpretation not of {', '.join(GRAY + COLOR)}")
    if not photometric or samples != (1 if photometric in GRAY else 3) or samples > bits:
        raise ImageError("invalid_dicom", f"{samples} samples of {bits} bits of {photometric or 'no interpretation'}")
    frames = elements.number("NumberOfFrames") or 1
    if frames % 1 or frames < 1:
        raise ImageError("invalid_dicom", f"{frames:g} frames")
    planar, signed = elements.integer("PlanarConfiguration", 0) == 1, elements.integer("PixelRepresentation", 0) == 1
    return PixelFormat(rows, columns, int(frames), samples, int(planar), bits, stored, signed, photometric)


def _check_image(elements: Elements, rows: int, columns: int, max_pixels: int) -> None:
    tag, _, start, stop = elements.pixels or (0, None, 0, 0)
    if tag in FLOATS:
        raise ImageError("unsupported_dtype", "floating-point samples; 1, 8 or 16 bit are supported")
    if not rows and not columns and stop <= start:
        hint = "Reports, plans, directories and the like hold none."
        raise ImageError("unsupported_format", "a DICOM file without an image", hint=hint)
    if rows < 1 or columns < 1:
        raise ImageError("invalid_dicom", f"an image of {columns}x{rows} pixels")
    if rows * columns > max_pixels:
        raise ImageError("too_large", f"{columns}x{rows} pixels is over the limit of {max_pixels}")
    if stop <= start:
        raise ImageError("truncated", "the pixel data is missing")
