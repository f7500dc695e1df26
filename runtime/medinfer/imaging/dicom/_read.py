"""DICOM images as 8-bit levels or colors. pydicom is imported here when the first one is read, and nowhere before."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, MedonnxError, ResourceError
from medinfer.spec import Dicom

FIRST_GROUPS, LAST_GROUP = (0x0002, 0x0008), 0x7FE0


def looks_like_dicom(start: bytes) -> bool:
    """Tell whether bytes, the first 132 of a file or more, start a DICOM file, with its preamble or without."""
    if start[128:132] == b"DICM":
        return True
    return len(start) >= 8 and any(_starts_with_elements(start, order) for order in "<>")


def _starts_with_elements(start: bytes, order: str) -> bool:
    """Tell whether there is an element of group 2 or 8, and after it one of a greater tag."""
    group, element, vr, length = struct.unpack_from(order + "HH2sH", start)
    if not (vr.isalpha() and vr.isupper()):  # implicit
        length = struct.unpack_from("<I", start, 4)[0] if order == "<" else 1
    if group not in FIRST_GROUPS or length % 2 or length + 8 > 1 << 16:
        return False
    following = start[8 + length : 12 + length]
    return len(following) < 4 or (group, element) < struct.unpack(order + "HH", following) < (LAST_GROUP + 1, 0)


def read_dicom(data: bytes, spec: Dicom, max_pixels: int) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Return one frame of a DICOM file.

    Args:
        data: The file.
        spec: The frame, and which of its values become black and white.
        max_pixels: A frame of more pixels is refused before it is decoded.

    Returns:
        uint8 (H, W) gray or (H, W, 3) RGB; and warnings: `window_fallback`.

    Raises:
        ImageError: `truncated`, `invalid_dicom`, `corrupt` (the compressed pixels), `too_large`, `multi_frame` (there
            is no such frame), `missing_extra`, `unsupported_format` (no image, video), `unsupported_dtype`.
        ResourceError: There is not enough memory.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        hint = 'Install it: pip install "medonnx[dicom]"'
        raise ImageError("missing_extra", "pydicom is not installed", hint=hint) from None
    from medinfer.imaging.dicom._frames import show_frame

    try:
        return show_frame(data, spec, max_pixels)
    except MedonnxError:
        raise
    except MemoryError:
        raise ResourceError("out of memory for a DICOM image") from None
    except struct.error:
        raise ImageError("truncated", f"the DICOM file ends early, after {len(data)} bytes") from None
    except Exception as error:  # noqa: BLE001 - pydicom meets damaged data with many exceptions
        if isinstance(error.__context__, ImageError):  # in which it may hide one of a limit
            raise error.__context__ from None
        # Only its name: a message may quote an element, and that may be a patient's name.
        raise ImageError("invalid_dicom", f"the DICOM file is damaged ({type(error).__name__})") from None


def check_dicom(start: bytes, size: int, max_pixels: int) -> None:
    """Refuse a large file by its start, if that shows how few pixels it has; raises ImageError `too_large`."""
    try:
        from medinfer.imaging.dicom._elements import inflated, read_elements
        from medinfer.imaging.dicom._format import read_format

        read_format(read_elements(inflated(start)), size, max_pixels)
    except Exception as error:
        if getattr(error, "code", "") == "too_large":
            raise
