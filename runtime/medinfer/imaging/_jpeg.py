"""JPEG of 8 bits by libjpeg-turbo (simplejpeg), whose warnings are errors here: it fills up what is missing in gray."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from medinfer.errors import ImageError
from medinfer.imaging._limits import SCANS

START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"
ADOBE = b"\xff\xee\x00\x0eAdobe"
ADOBE_RGB = ADOBE + b"\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's marker with transform 0: the components are RGB."""


def decode_jpeg(
    data: bytes, *, colors: Literal["gray", "rgb", "cmyk"], rgb_components: bool = False, many_scans: bool = True
) -> npt.NDArray[np.uint8]:
    """Decode a JPEG.

    Args:
        data: From the start mark to the end mark; bytes after it are passed over.
        colors: The colors of the result.
        rgb_components: The components are RGB, although the stream may not say so.
        many_scans: There may be several scans, each of which costs a pass over all pixels: they are counted.

    Returns:
        uint8 (H, W), (H, W, 3) RGB, or (H, W, 4) CMYK as it is stored.

    Raises:
        ImageError: `truncated` (there is no end mark), `corrupt` (all that libjpeg-turbo warns of),
            `too_large` (over 100 scans), `unsupported_format` (a sampling that TurboJPEG has no name for).
    """
    if many_scans and data.count(START_OF_SCAN) > SCANS:
        raise ImageError("too_large", f"the JPEG has more than {SCANS} scans")
    named = rgb_components and ADOBE not in data[: data.find(START_OF_SCAN)]
    stream = data[:2] + ADOBE_RGB + data[2:] if named else data
    try:
        image: Any = simplejpeg.decode_jpeg(stream, {"gray": "GRAY", "rgb": "RGB", "cmyk": "CMYK"}[colors], strict=True)
    except ValueError as error:
        if END not in data[-64:]:
            raise ImageError("truncated", f"the JPEG ends early, after {len(data)} bytes") from None
        if "subsampling" in str(error):
            raise ImageError("unsupported_format", "a JPEG whose components are sampled in an unusual way") from None
        raise ImageError("corrupt", f"the JPEG is damaged: {error}") from None
    pixels: npt.NDArray[np.uint8] = image[..., 0] if colors == "gray" else image
    return pixels
