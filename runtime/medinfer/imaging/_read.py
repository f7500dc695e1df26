"""From a path, the bytes of a file or an array to RGB or gray pixels.

The result is uint8 or uint16, (height, width, 3) RGB or (height, width) gray, upright (EXIF applied).
"""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, ResourceError, UsageError
from medinfer.imaging._color import compose, from_adobe_cmyk, swap_red_and_blue, upright
from medinfer.imaging._files import FileBytes, read_checked
from medinfer.imaging._headers import Header, read_header
from medinfer.imaging._limits import MAX_PIXELS, check_file_bytes, check_size
from medinfer.imaging.dicom import check_dicom, looks_like_dicom, read_dicom
from medinfer.spec import InputSpec, Over

Image: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | npt.NDArray[Any]"
DICOM_START, LARGE_START = 1 << 10, 1 << 20
"""As many bytes show whether a file is DICOM, and mostly how many pixels it has."""


class Decoded(NamedTuple):
    """An image, and what a reader of its prediction should know of it."""

    pixels: Image
    warnings: tuple[str, ...] = ()


def read_image(
    source: ImageSource, spec: InputSpec, *, color: Literal["rgb", "bgr"] = "rgb", max_pixels: int = MAX_PIXELS
) -> Image:
    """Return the pixels of one image.

    Args:
        source: A path, the bytes of a file, or an array: uint8 or uint16, (H, W) gray or (H, W, 3).
        spec: Says what to do with alpha and which DICOM window and frame to take.
        color: The channel order of an array of 3 channels; files know their own.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        uint8 or uint16, (H, W, 3) RGB or (H, W) gray.

    Raises:
        ImageError: The image cannot be used; `code` says why.
        ResourceError: There is no memory left to decode it.
        UsageError: `color` is neither "rgb" nor "bgr".
    """
    return decode(source, spec, color=color, max_pixels=max_pixels).pixels


def decode(
    source: ImageSource, spec: InputSpec, *, color: Literal["rgb", "bgr"] = "rgb", max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Return the pixels of one image with the warnings of its prediction; arguments and errors as of `read_image`."""
    if color not in ("rgb", "bgr"):
        raise UsageError(f"color: {color!r} is not one of rgb, bgr")
    if isinstance(source, np.ndarray):
        return Decoded(_from_array(source, color, max_pixels))
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), spec, max_pixels)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"image: {type(source).__name__} is neither a path, bytes nor an array")
    return _decode(read_checked(source, lambda data: _check_large(data, max_pixels)), spec, max_pixels)


def _from_array(array: npt.NDArray[Any], color: str, max_pixels: int) -> Image:
    if array.dtype not in (np.uint8, np.uint16):
        hint = "Pass the pixels as they were decoded: the model scales them itself."
        raise ImageError("unsupported_dtype", f"an array of {array.dtype}, not uint8 or uint16", hint=hint)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError("unsupported_format", f"an array of shape {array.shape}, not (H, W) or (H, W, 3)")
    check_size(array.shape[1], array.shape[0], max_pixels)
    image: Image = np.ascontiguousarray(array)
    return swap_red_and_blue(image) if color == "bgr" and image.ndim == 3 else image


def _check_large(data: FileBytes, max_pixels: int) -> None:
    """Judge a large file by its header, before all of it is read."""
    if looks_like_dicom(data[:DICOM_START]):
        check_dicom(data[:LARGE_START], len(data), max_pixels)
    else:
        _check_header(read_header(data), len(data), max_pixels)


def _decode(data: bytes, spec: InputSpec, max_pixels: int) -> Decoded:
    if looks_like_dicom(data[:DICOM_START]):
        return Decoded(*read_dicom(data, spec.dicom, max_pixels))
    header = read_header(data)
    _check_header(header, len(data), max_pixels)
    try:
        image, alpha = _decoded(data, header, alpha=isinstance(spec.alpha, Over))
    except MemoryError:
        raise ResourceError(f"out of memory for {header.width}x{header.height} pixels") from None
    if image.shape[:2] != (header.height, header.width):
        raise ImageError("corrupt", f"{image.shape[1]}x{image.shape[0]} pixels, not {header.width}x{header.height}")
    if alpha is not None and isinstance(spec.alpha, Over):
        image = compose(image, alpha, spec.alpha.over)
    return Decoded(image if header.orientation == 1 else upright(image, header.orientation))


def _check_header(header: Header, size: int, max_pixels: int) -> None:
    check_size(header.width, header.height, max_pixels)
    check_file_bytes(size, header.width * header.height)
    if header.multi_frame:
        raise ImageError("multi_frame", f"this {header.format} holds several images", hint="Pass one of them.")
    if header.floating or header.bits not in (1, 2, 4, 8, 16) or (header.format == "jpeg" and header.bits != 8):
        kind = "floating-point" if header.floating else f"{header.bits}-bit"
        raise ImageError("unsupported_dtype", f"{kind} samples; 8 or 16 bit are supported")


def _decoded(data: bytes, header: Header, *, alpha: bool) -> tuple[Any, Any]:
    """Return an image as it is stored, and its alpha channel or None. Each decoder is imported when first needed."""
    if header.format == "jpeg":
        from medinfer.imaging._jpeg import decode_jpeg

        if header.channels == 4:
            return from_adobe_cmyk(decode_jpeg(data, colors="cmyk", many_scans=header.many_scans)), None
        colors: Literal["gray", "rgb"] = "gray" if header.channels == 1 else "rgb"
        return decode_jpeg(data, colors=colors, many_scans=header.many_scans), None
    if header.format == "tiff":
        from medinfer.imaging.tiff._read import read_tiff

        return read_tiff(data)
    if header.format == "bmp":
        from medinfer.imaging._bmp import read_bmp

        return read_bmp(data)
    from medinfer.imaging._opencv import read_by_opencv

    return read_by_opencv(data, header, alpha=alpha)
