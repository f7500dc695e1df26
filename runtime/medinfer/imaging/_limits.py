"""What an image may cost, as formulas of its pixels. docs/decoding.md lists these and the limits of single formats.

Limits are on structure (bytes, chunks, segments), so that an outcome does not depend on how busy a machine is. Only the
child process of `_isolation.py` has a limit on CPU time, and that is of its own time, not the clock's.
"""

from __future__ import annotations

from medinfer.errors import ImageError

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1 << 30

FILE_BYTES, FILE_BYTES_PER_PIXEL = 32 << 20, 16
"""16 bytes hold twice the samples of a 16-bit RGBA pixel; 32 MiB leave room for metadata."""
PARTS, PIXELS_PER_PART = 10_000, 64
"""Chunks of a PNG or WebP; strips and tiles of a TIFF."""
SCANS = 100
"""Of a JPEG: each costs a pass over all pixels. Encoders write about 10."""
SKIPPED_BYTES = 1 << 16
"""Fill bytes between the markers of a JPEG."""
DECODER_SECONDS, DECODER_BYTES, DECODER_BYTES_PER_PIXEL = 2.0, 256 << 20, 64


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of no pixels, or of too many; raises ImageError `corrupt` or `too_large`."""
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"an image of {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels is over the limit of {max_pixels}")


def check_file_bytes(size: int, pixels: int) -> None:
    """Refuse a file that is far larger than its pixels; raises ImageError `too_large`."""
    limit = min(MAX_FILE_BYTES, FILE_BYTES + FILE_BYTES_PER_PIXEL * pixels)
    if size > limit:
        raise ImageError("too_large", f"{size} bytes for {pixels} pixels is over the limit of {limit} bytes")


def max_parts(pixels: int) -> int:
    """Return how many chunks, strips or tiles an image of so many pixels may have."""
    return PARTS + pixels // PIXELS_PER_PART


def decoder_seconds(pixels: int) -> float:
    """Return the CPU time that a decoder in a child process may use: 2 s a megapixel, at least 2 s."""
    return DECODER_SECONDS * max(1.0, pixels / 1e6)


def decoder_bytes(pixels: int) -> int:
    """Return the memory that a decoder in a child process may add."""
    return DECODER_BYTES + DECODER_BYTES_PER_PIXEL * pixels
