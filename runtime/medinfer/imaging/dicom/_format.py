"""The layout of the pixel data (PS3.3 C.7.6.3), judged before anything is decoded."""

from __future__ import annotations

from typing import NamedTuple

from medinfer.errors import ImageCode, ImageError
from medinfer.imaging._limits import check_file_bytes
from medinfer.imaging.dicom._elements import FLOATS, Elements

GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PIXEL_VRS = ("OB", "OW", "OB or OW", "UN", None)  # None: the file leaves it out
KEYWORDS = ["SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation", "PlanarConfiguration"]


class PixelFormat(NamedTuple):
    """The layout of the pixel data, by the names of pydicom's decoding options."""

    rows: int
    columns: int
    number_of_frames: int
    photometric_interpretation: str
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int

    @property
    def pixels(self) -> int:
        """Number of pixels of a frame."""
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """Size of all frames uncompressed; in YBR_FULL_422, two pixels share their chroma."""
        samples = 2 if self.photometric_interpretation == "YBR_FULL_422" else self.samples_per_pixel
        return (self.number_of_frames * self.pixels * samples * self.bits_allocated + 7) // 8


def read_format(elements: Elements, size: int, max_pixels: int) -> PixelFormat:
    """Read the Image Pixel module of a file of a size; raises ImageError for all that is not supported."""
    rows, columns = elements.value("Rows") or 0, elements.value("Columns") or 0
    absent, frames = not (elements.pixels and elements.pixels.length), int(elements.value("NumberOfFrames") or 1)
    _refuse(
        (any(keyword in elements.dataset for keyword in FLOATS), "unsupported_dtype", "floating-point samples"),
        (not rows and not columns and absent, "unsupported_format", "a DICOM file without an image, as of a report"),
        (rows < 1 or columns < 1, "invalid_dicom", f"an image of {columns}x{rows} pixels"),
        (rows * columns > max_pixels, "too_large", f"{columns}x{rows} pixels is over the limit of {max_pixels}"),
        (absent, "truncated", "the pixel data is missing"),
        (not absent and elements.pixels.VR not in PIXEL_VRS, "invalid_dicom", "pixel data of another VR than OB or OW"),
        (frames < 1, "invalid_dicom", f"{frames} frames"),
    )
    values = [elements.value(keyword) for keyword in KEYWORDS]
    values[-1] = values[-1] if values[0] != 1 else 0
    _refuse(
        *((value is None, "invalid_dicom", f"{name} is missing") for name, value in zip(KEYWORDS, values, strict=True))
    )
    pixels = PixelFormat(rows, columns, frames, str(elements.value("PhotometricInterpretation") or ""), *values)
    _check_samples(pixels, elements.value("HighBit"))
    check_file_bytes(size, pixels.pixels * frames)
    return pixels


def _check_samples(pixels: PixelFormat, high: int | None) -> None:
    photometric, samples, bits, stored, signed, planar = pixels[3:]
    expected, highest, known = 1 if photometric in GRAY else 3, stored - 1 if high is None else high, GRAY + COLOR
    _refuse(
        (bits not in (1, 8, 16), "unsupported_dtype", f"{bits}-bit samples; 1, 8 or 16 bit are supported"),
        (not 1 <= stored <= bits or highest != stored - 1, "invalid_dicom", f"{stored} of {bits} bits are stored"),
        (not photometric, "invalid_dicom", "PhotometricInterpretation is missing"),
        (photometric not in known, "unsupported_format", f"a photometric interpretation not of {', '.join(known)}"),
        (samples != expected or samples > bits, "invalid_dicom", f"{samples} samples of {bits} bits of {photometric}"),
        (planar not in (0, 1) or signed not in (0, 1), "invalid_dicom", "a configuration that is neither 0 nor 1"),
        (bool(signed) and photometric not in GRAY, "invalid_dicom", f"signed samples of {photometric}"),
    )


def _refuse(*refusals: tuple[bool, ImageCode, str]) -> None:
    for applies, code, message in refusals:
        if applies:
            raise ImageError(code, message)
