"""The colors of a TIFF."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging.tiff._codecs import JPEG
from medinfer.imaging.tiff._header import CMYK, PALETTE, WHITE_IS_ZERO, YCBCR, TiffHeader, read_tiff_header
from medinfer.imaging.tiff._segments import read_samples

COLOR_MAP = 320
ASSOCIATED, UNASSOCIATED = 1, 2


def read_tiff(data: bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Decode a TIFF whose header was judged.

    Returns:
        The image as stored, before its orientation, uint8 or uint16: (H, W) gray or (H, W, 3) RGB; and its alpha
        channel (H, W), or None.

    Raises:
        ImageError: `truncated`, `corrupt`, `unsupported_format`, `unsupported_dtype`, `missing_extra`, `too_large`.
    """
    tiff = read_tiff_header(data)
    if tiff.photometric == YCBCR and tiff.compression != JPEG:
        raise ImageError("unsupported_format", "a TIFF of YCbCr samples that are not compressed as JPEG")
    if tiff.bits == 16 and tiff.photometric in (PALETTE, CMYK):
        raise ImageError("unsupported_dtype", "a TIFF of 16-bit palette indices or CMYK samples; 8 bit are supported")
    try:
        samples = read_samples(tiff, data)
        alpha = _alpha(tiff, samples)
        return _colors(tiff, samples), alpha
    except struct.error:
        raise ImageError("truncated", f"the TIFF ends early, after {len(data)} bytes") from None


def _colors(tiff: TiffHeader, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the image of the samples, (H, W) gray or (H, W, 3) RGB."""
    if tiff.photometric == PALETTE:
        colors: npt.NDArray[Any] = _palette(tiff)[samples[..., 0]]
        return colors
    if tiff.photometric == CMYK:
        return _from_cmyk(samples)
    if tiff.bits < 8:
        samples = samples * np.uint8(255 // ((1 << tiff.bits) - 1))
    if tiff.photometric == WHITE_IS_ZERO:
        samples = ~samples
    return np.ascontiguousarray(samples[..., 0] if tiff.channels == 1 else samples[..., :3])


def _alpha(tiff: TiffHeader, samples: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return the alpha channel; raises ImageError where the colors were multiplied by it, which loses them."""
    if tiff.alpha is None:
        return None
    alpha = samples[..., -1]
    if tiff.bits < 8 or tiff.photometric in (PALETTE, CMYK, WHITE_IS_ZERO):
        raise ImageError("unsupported_format", "a TIFF of palette, CMYK or inverted samples with alpha")
    if tiff.alpha != UNASSOCIATED and not np.all(alpha == np.iinfo(alpha.dtype).max):
        raise ImageError("unsupported_format", "a TIFF with premultiplied alpha", hint="Convert it to PNG.")
    return alpha


def _palette(tiff: TiffHeader) -> npt.NDArray[np.uint8]:
    """Return the colors of a palette, uint8 (2 ** bits, 3)."""
    count = 1 << tiff.bits
    values = tiff.directory.values(COLOR_MAP, most=3 * 256)
    if len(values) != 3 * count or max(values) >= 1 << 16:
        raise ImageError("corrupt", f"a TIFF's palette of {len(values)} values, not {3 * count} of 16 bits")
    colors = np.array(values, np.uint16).reshape(3, count).T
    # Some writers give 8 bits where the standard wants 16, and libtiff reads them so.
    return (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)


def _from_cmyk(samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return RGB as libtiff does: (255 - k) (255 - c) / 255, rounded down."""
    white = 255 - samples[..., :4].astype(np.uint16)
    return (white[..., :3] * white[..., 3:] // 255).astype(np.uint8)
