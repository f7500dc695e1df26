"""BMP by Pillow, which knows its headers, bit masks and run lengths, and refuses the rest."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.BmpImagePlugin import BmpImageFile

from medinfer.errors import ImageError


def read_bmp(data: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    """Decode a BMP.

    Returns:
        uint8, (H, W) gray or (H, W, 3) RGB; and its alpha channel (H, W), or None.

    Raises:
        ImageError: `truncated`, `corrupt`, `unsupported_format`.
    """
    try:
        if _missing_rows(data):
            raise ImageError("truncated", f"the BMP ends early, after {len(data)} bytes")
        image = BmpImageFile(io.BytesIO(data))
        image.load()
        mode = image.mode if image.mode in ("L", "RGBA") else "RGB"
        pixels: npt.NDArray[Any] = np.asarray(image.convert(mode))
    except (ImageError, MemoryError):
        raise
    except struct.error:
        raise ImageError("truncated", f"the BMP ends within its header, after {len(data)} bytes") from None
    except Exception as error:  # noqa: BLE001 - Pillow meets damaged data with whatever it likes
        if "truncated" in str(error):
            raise ImageError("truncated", f"the BMP ends early, after {len(data)} bytes") from None
        if "Unsupported" in str(error):
            raise ImageError("unsupported_format", f"a BMP that Pillow does not read: {error}") from None
        raise ImageError("corrupt", f"the BMP does not decode: {error}") from None
    return (pixels[..., :3], pixels[..., 3]) if mode == "RGBA" else (pixels, None)


def _missing_rows(data: bytes) -> bool:
    """Tell whether an uncompressed BMP has fewer bytes than rows, each of a multiple of 4; Pillow counts the pixels."""
    offset, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, bits, compression = *struct.unpack_from("<HH2xH", data, 18), 0
    else:
        width, height, bits, compression = struct.unpack_from("<ii2xHI", data, 18)
    stored = compression in (0, 3, 6)
    return stored and offset + abs(height) * ((width * bits + 31) // 32 * 4) > len(data)
