"""PNG and WebP by OpenCV; what it does differently from one format to the next is evened out here."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, ResourceError
from medinfer.imaging._color import swap_red_and_blue
from medinfer.imaging._headers import Header, looks_truncated, png_chunks

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_by_opencv(data: bytes, header: Header, *, alpha: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Decode a PNG or WebP.

    Args:
        data: The file.
        header: Its header, judged before.
        alpha: Whether the alpha channel is wanted.

    Returns:
        The image as stored, before its orientation, uint8 or uint16: (H, W) gray or (H, W, 3) RGB; and its alpha
        channel (H, W), or None.

    Raises:
        ImageError: `truncated`, `corrupt`.
        ResourceError: There is no memory left to decode it.
    """
    if header.bulky:
        data = _pixels_only(data)
    if not (alpha and header.alpha):
        # Three equal channels would say the same as one.
        flags = cv2.IMREAD_GRAYSCALE if header.channels == 1 else cv2.IMREAD_COLOR_RGB
        return _imdecode(data, header, flags | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION), None
    image = _imdecode(data, header, cv2.IMREAD_UNCHANGED)  # which leaves the orientation alone as well
    if image.ndim == 2:
        return image, _transparent_level(image, header)
    if image.shape[2] != 4:
        raise ImageError("corrupt", f"the {header.format} has no alpha channel, though its header names one")
    return swap_red_and_blue(image[..., :3]), image[..., 3]


def _pixels_only(png: bytes) -> bytes:
    """Return a PNG without its ancillary chunks: libpng would inflate texts and profiles, and OpenCV drops them."""
    kept = [png[:8]]
    for kind, start, length in png_chunks(png, len(png)):
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(png[start - 8 : start + length + 4])
    return b"".join(kept) + PNG_END


def _transparent_level(gray: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """Return the alpha of a gray PNG in which one level stands for transparency; OpenCV passes over it."""
    top = int(np.iinfo(gray.dtype).max)
    level = (header.transparent_level or 0) * top // (2**header.bits - 1)  # fewer than 8 bits were stretched to 8
    return np.where(gray == level, 0, top).astype(gray.dtype)


def _imdecode(data: bytes, header: Header, flags: int) -> npt.NDArray[Any]:
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
    decoded: npt.NDArray[Any] = image
    return decoded
