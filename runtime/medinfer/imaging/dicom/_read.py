"""DICOM -> pixels: the only file that knows pydicom, which decodes what neither these files nor OpenCV do.

    dicom_elements   the header, in place              dicom_codestreams   compressed frames; JPEG of 8 bits
    dicom_frames     one frame's stored samples        dicom_luts          a stored value's gray level or colour

No tag is ever copied to an output.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, ResourceError
from medinfer.imaging._read import MAX_FILE_BYTES
from medinfer.imaging.dicom._codestreams import Codestream, decode_jpeg, read_codestream
from medinfer.imaging.dicom._elements import PIXEL_DATA, Elements, Encoded, after_file_meta, is_vr
from medinfer.imaging.dicom._frames import PixelFormat, Samples, compressed_frame, native_frame, pixel_format, rle_frame
from medinfer.imaging.dicom._luts import gray_levels, palette_levels
from medinfer.spec import Dicom

MAX_HEADER_BYTES = 16 << 20  # of a deflated file, up to its pixel data
BLOCK = 1 << 20  # pixels that are converted at a time

TRANSFER_SYNTAX = 0x00020010
ROOT = "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED, RLE = f"{ROOT}.2", f"{ROOT}.1.99", f"{ROOT}.5"
NATIVE = (ROOT, f"{ROOT}.1", BIG_ENDIAN, DEFLATED)
BASELINE, EXTENDED = f"{ROOT}.4.50", f"{ROOT}.4.51"
# pydicom's plug-in for each: one alone, so that the pixels do not depend on what else an environment has.
PLUGINS = {
    BASELINE: ("JPEG Baseline", "pylibjpeg"),  # these two of more than 8 bits, which OpenCV does not decode
    EXTENDED: ("JPEG Extended", "pylibjpeg"),
    f"{ROOT}.4.57": ("JPEG Lossless", "gdcm"),
    f"{ROOT}.4.70": ("JPEG Lossless SV1", "gdcm"),
    f"{ROOT}.4.80": ("JPEG-LS", "gdcm"),
    f"{ROOT}.4.81": ("JPEG-LS, near-lossless", "gdcm"),
    f"{ROOT}.4.90": ("JPEG 2000, lossless", "pylibjpeg"),
    f"{ROOT}.4.91": ("JPEG 2000", "pylibjpeg"),
    f"{ROOT}.4.201": ("High-Throughput JPEG 2000, lossless", "pylibjpeg"),
    f"{ROOT}.4.202": ("High-Throughput JPEG 2000, lossless RPCL", "pylibjpeg"),
    f"{ROOT}.4.203": ("High-Throughput JPEG 2000", "pylibjpeg"),
}
INSTALL = 'Install it: pip install "medonnx[dicom]"'
INSTALL_GPL = 'The one there is has the GPL, so it is left to you: pip install "medonnx[dicom]" pylibjpeg-libjpeg'

# YBR_FULL to RGB, PS3.3 C.7.6.3.1.2: chroma stands around 128.
RED, GREEN_FROM_BLUE, GREEN_FROM_RED, BLUE = 1.402, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587, 1.772
YBR_TO_RGB = np.array(
    [
        [1, 0, RED, -128 * RED],
        [1, GREEN_FROM_BLUE, GREEN_FROM_RED, -128 * (GREEN_FROM_BLUE + GREEN_FROM_RED)],
        [1, BLUE, 0, -128 * BLUE],
    ]
)


def read_dicom(data: bytes, spec: Dicom, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return one frame as uint8: (H, W) gray, or (H, W, 3) RGB for colour.

    Raises:
        ImageError: `truncated`, `invalid_dicom`, `corrupt` (the compressed pixels), `too_large`, `multi_frame` (the
            frame is not there), `missing_decoder`, `unsupported_format` (no picture, video), `unsupported_dtype`.
        ResourceError: There is no memory left to decode it.
    """
    whole = memoryview(data)
    start = after_file_meta(whole)
    syntax = Elements(Encoded(whole), 132, start).text(TRANSFER_SYNTAX)
    if not syntax:
        raise ImageError("invalid_dicom", "(0002,0010), the transfer syntax, is missing")
    if syntax == DEFLATED:
        elements = _inflated(whole[start:], max_pixels)
    else:
        # Files misstate whether elements name their VR; the first one shows it.
        explicit, order = is_vr(bytes(whole[start + 4 : start + 6])), ">" if syntax == BIG_ENDIAN else "<"
        elements = Elements(Encoded(whole, explicit, order), start, len(whole))
    pixels = pixel_format(elements, max_pixels)
    if spec.frame >= pixels.frames:
        raise ImageError("multi_frame", f"frame {spec.frame} of a file with {pixels.frames}, counted from 0")
    samples, pixels = _samples(elements, pixels, syntax, spec.frame)
    return _shown(elements, pixels, samples, spec)


def _inflated(body: memoryview, max_pixels: int) -> Elements:
    """Inflate a deflated data set: its header, and then no more than the pixels that this announces."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(body, MAX_HEADER_BYTES)
        elements = _read_inflated(data, whole=inflater.eof)
        pixels = pixel_format(elements, max_pixels)
        size = elements.span(PIXEL_DATA)[0] + pixels.frames * pixels.frame_bytes
        if size > MAX_FILE_BYTES:
            raise ImageError("too_large", f"{size} bytes, inflated, are over the limit of {MAX_FILE_BYTES}")
        if size > len(data):
            data += inflater.decompress(inflater.unconsumed_tail, size - len(data))
    except zlib.error:
        raise ImageError("corrupt", "the deflated data set does not inflate") from None
    return Elements(Encoded(memoryview(data)), 0, len(data))


def _read_inflated(data: bytes, *, whole: bool) -> Elements:
    try:
        return Elements(Encoded(memoryview(data)), 0, len(data))
    except ImageError:
        if whole or len(data) < MAX_HEADER_BYTES:
            raise
        raise ImageError("too_large", f"no pixels in the first {len(data)} bytes, inflated, of the file") from None


def _samples(elements: Elements, pixels: PixelFormat, syntax: str, frame: int) -> tuple[Samples, PixelFormat]:
    """Return a frame's stored samples, and what they are: a codestream knows better than the data set around it."""
    if syntax in NATIVE:
        return native_frame(elements, pixels, frame), pixels
    if syntax != RLE and syntax not in PLUGINS:
        told = syntax if syntax.replace(".", "").isdigit() else "that is none"
        hint = "Video, and what is not known, is not decoded."
        raise ImageError("unsupported_format", f"transfer syntax {told}", hint=hint)
    compressed = compressed_frame(elements, pixels, frame)
    if syntax == RLE:
        return rle_frame(compressed, pixels), pixels
    stream = read_codestream(compressed, pixels)
    pixels = replace(pixels, stored=max(pixels.stored, stream.bits), photometric=stream.photometric(pixels.photometric))
    if syntax in (BASELINE, EXTENDED) and stream.bits == 8:
        decoded = replace(pixels, photometric="RGB") if pixels.samples == 3 else pixels
        return decode_jpeg(stream, pixels), decoded
    return _decode(stream, pixels, syntax)


def _decode(stream: Codestream, pixels: PixelFormat, syntax: str) -> tuple[Samples, PixelFormat]:
    label, plugin = PLUGINS[syntax]
    missing = ImageError(
        "missing_decoder",
        f"no decoder for {label} of {stream.bits} bits",
        hint=INSTALL_GPL if syntax in (BASELINE, EXTENDED) else INSTALL,
    )
    try:
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder
    except ImportError:
        raise missing from None
    decoder = get_decoder(syntax)
    if plugin not in decoder.available_plugins:
        raise missing
    options: Any = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "number_of_frames": 1,
        "samples_per_pixel": pixels.samples,
        "planar_configuration": int(pixels.planar),
        "bits_allocated": pixels.bits,
        "bits_stored": pixels.stored,
        "pixel_representation": int(pixels.signed),
        "photometric_interpretation": pixels.photometric,
    }
    try:
        # Its validation is of what was judged here already, and would warn.
        array, told = decoder.as_array(
            encapsulate([stream.data]), index=0, raw=True, validate=False, decoding_plugin=plugin, **options
        )
    except MemoryError:
        raise ResourceError(f"out of memory for {pixels.columns}x{pixels.rows} pixels") from None
    except Exception:  # noqa: BLE001 - decoders meet damaged data with whatever they like
        raise ImageError("corrupt", f"the {label} of {pixels.columns}x{pixels.rows} pixels does not decode") from None
    return array.view(f"u{array.itemsize}"), replace(pixels, photometric=str(told["photometric_interpretation"]))


def _shown(elements: Elements, pixels: PixelFormat, samples: Samples, spec: Dicom) -> npt.NDArray[np.uint8]:
    """Return stored samples as they are to be seen."""
    bits = 8 * samples.itemsize
    native: Any = np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
    if pixels.photometric.startswith("MONOCHROME"):
        return cv2.LUT(native, gray_levels(elements, pixels, bits, spec))  # type: ignore[return-value]
    if pixels.photometric == "PALETTE COLOR":
        return np.dstack([cv2.LUT(native, levels) for levels in palette_levels(elements, pixels, bits)])
    if native.dtype != np.uint8 or pixels.photometric not in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        raise ImageError("unsupported_format", f"{pixels.photometric} of {bits} bits, as it was decoded")
    return np.array(native) if pixels.photometric == "RGB" else _rgb(native)


def _rgb(ybr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert YBR_FULL by its formula, some rows at a time."""
    rgb = np.empty_like(ybr)
    step = max(1, BLOCK // ybr.shape[1])
    for row in range(0, len(ybr), step):
        converted: Any = cv2.transform(ybr[row : row + step].astype(np.float64), YBR_TO_RGB)
        rgb[row : row + step] = np.clip(np.floor(converted + 0.5), 0, 255)
    return rgb
