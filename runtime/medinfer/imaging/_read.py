"""A path, the bytes of a file, or an array -> RGB or gray pixels. The only file that decodes (DICOM: `dicom.py`).

The result is uint8 or uint16, (height, width, 3) RGB or (height, width) gray, upright (EXIF applied). `pixels.py` goes
on from there. What OpenCV does differently from one format to the next is evened out here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageCode, ImageError, ResourceError, UsageError
from medinfer.imaging._headers import Header, looks_truncated, read_header
from medinfer.spec import InputSpec, Over

Image: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | npt.NDArray[Any]"

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1 << 30
STRIP_PIXELS = 1 << 16


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
    if color not in ("rgb", "bgr"):
        raise UsageError(f"color: {color!r} is not one of rgb, bgr")
    if isinstance(source, np.ndarray):
        return _from_array(source, color, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), spec, max_pixels)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"image: {type(source).__name__} is neither a path, bytes nor an array")
    data = read_file(source)
    return _decode(data, spec, max_pixels)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return a regular file's bytes; raises ImageError for whatever the file system holds against it."""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not_regular_file", "not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError("too_large", f"{status.st_size} bytes is over the limit of {MAX_FILE_BYTES}")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        codes: dict[int | None, ImageCode] = {
            errno.ENOENT: "not_found",
            errno.EACCES: "permission_denied",
            errno.EISDIR: "not_regular_file",
            errno.ENXIO: "not_regular_file",
        }
        code = codes.get(getattr(error, "errno", None), "os_error")
        raise ImageError(code, getattr(error, "strerror", None) or str(error)) from None


def _from_array(array: npt.NDArray[Any], color: str, max_pixels: int) -> Image:
    if array.dtype not in (np.uint8, np.uint16):
        hint = "Pass the pixels as they were decoded: scaling is the model's business."
        raise ImageError("unsupported_dtype", f"an array of {array.dtype}, not uint8 or uint16", hint=hint)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError("unsupported_format", f"an array of shape {array.shape}, not (H, W) or (H, W, 3)")
    _check_size(array.shape[1], array.shape[0], max_pixels)
    image = np.ascontiguousarray(array)
    return _swap_red_and_blue(image) if color == "bgr" and image.ndim == 3 else image


def _decode(data: bytes, spec: InputSpec, max_pixels: int) -> Image:
    if data[128:132] == b"DICM":
        from medinfer.imaging.dicom import read_dicom

        return read_dicom(data, spec.dicom, max_pixels)
    header = read_header(data)
    _check_header(header, max_pixels)
    if header.alpha and (isinstance(spec.alpha, Over) or header.format == "tiff"):
        return _decode_alpha(data, header, spec)
    return _decode_color(data, header)


def _check_header(header: Header, max_pixels: int) -> None:
    _check_size(header.width, header.height, max_pixels)
    if header.multi_frame:
        raise ImageError("multi_frame", f"this {header.format} holds several pictures", hint="Pass one of them.")
    if header.floating or header.bits not in (1, 2, 4, 8, 16):
        kind = "floating-point" if header.floating else f"{header.bits}-bit"
        raise ImageError("unsupported_dtype", f"{kind} samples; 8 or 16 bit are supported")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"a picture of {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels is over the limit of {max_pixels}")


def _decode_color(data: bytes, header: Header) -> Image:
    """Decode to RGB, or to gray where the file holds one channel (three equal ones would say the same)."""
    if header.gray:
        gray = _imdecode(data, header, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        # OpenCV turns a WhiteIsZero TIFF round at 8 bits and leaves it at 16.
        return ~gray if header.white_is_zero and gray.dtype == np.uint16 else gray
    if header.format == "tiff":
        # OpenCV 5.0 mixes up the channels of a 16-bit TIFF when asked for RGB, not when asked for BGR.
        return _swap_red_and_blue(_imdecode(data, header, cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH))
    return _imdecode(data, header, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)


def _decode_alpha(data: bytes, header: Header, spec: InputSpec) -> Image:
    """Decode an image whose alpha channel matters: composed onto a background, or a TIFF."""
    image: Any = _imdecode(data, header, cv2.IMREAD_UNCHANGED)
    if header.transparent_level is not None and image.ndim == 2:
        image = _with_transparent_level(image, header)
    if image.ndim == 2 or image.shape[2] != 4:
        # OpenCV drops the alpha of a gray TIFF, and at 16 bits cuts the samples to 8 on the way.
        if isinstance(spec.alpha, Over) or header.bits == 16:
            raise ImageError("unsupported_format", f"a {header.format} of gray and alpha", hint="Convert it to PNG.")
        return _decode_color(data, header)
    # libtiff multiplies 8-bit colours by their alpha while reading, and they cannot be had back.
    if header.format == "tiff" and image.dtype == np.uint8 and not np.all(image[..., 3] == 255):
        raise ImageError("unsupported_format", "a TIFF with transparency", hint="Convert it to PNG.")
    color = _swap_red_and_blue(image[..., :3])
    return _compose(color, image[..., 3], spec.alpha.over) if isinstance(spec.alpha, Over) else color


def _with_transparent_level(gray: Any, header: Header) -> Any:
    """Return BGRA for a gray PNG in which one level stands for transparency; OpenCV passes over it."""
    top = int(np.iinfo(gray.dtype).max)
    level = (header.transparent_level or 0) * top // (2**header.bits - 1)  # fewer than 8 bits were stretched to 8
    alpha = np.where(gray == level, 0, top).astype(gray.dtype)
    return np.dstack([gray, gray, gray, alpha])


def _compose(color: Image, alpha: Image, background: tuple[int, int, int]) -> Image:
    """Return floor(a c + (1 - a) b + 0.5) per channel, a = alpha / its maximum."""
    top = int(np.iinfo(color.dtype).max)
    behind = np.array(background, np.float64) * (top // 255)  # 65535 = 255 * 257
    composed = np.empty_like(color)
    # In strips: as floats, the largest picture allowed would take 7 GB.
    height = max(1, STRIP_PIXELS // color.shape[1])
    for start in range(0, len(color), height):
        rows = slice(start, start + height)
        weight = (alpha[rows] / top)[..., None]
        composed[rows] = np.floor(color[rows] * weight + behind * (1 - weight) + 0.5)
    return composed


def _upright(image: Any, orientation: int) -> Any:
    """Undo an EXIF orientation."""
    if orientation >= 5:
        image = np.swapaxes(image, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(image, flips)


def _swap_red_and_blue(image: Image) -> Image:
    swapped: Image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return swapped


def _imdecode(data: bytes, header: Header, flags: int) -> Image:
    # OpenCV overlooks some EXIF blocks of PNG and WebP, and all where it leaves an image unchanged: there it is ours.
    ours = header.format in ("png", "webp")
    if ours and flags != cv2.IMREAD_UNCHANGED:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image: Any = None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # says nothing against the image
            raise ResourceError(f"out of memory for {header.width}x{header.height} pixels") from None
    if image is None:
        if looks_truncated(header, data):
            raise ImageError("truncated", f"the {header.format} ends early, after {len(data)} bytes")
        raise ImageError("corrupt", f"the {header.format} of {header.width}x{header.height} pixels does not decode")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported_dtype", f"samples of {image.dtype}; uint8 and uint16 are supported")
    upright: Image = np.ascontiguousarray(_upright(image, header.orientation)) if ours else image
    return upright
