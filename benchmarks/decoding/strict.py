"""Other decoders, each as strict as it can be made: all that it warns of is an error.

Their pixels have the form of `read_image`: uint8 or uint16, (H, W) gray or (H, W, 3) RGB, upright, without alpha.
"""

from __future__ import annotations

import io
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[Any]
FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
JPEG_LS = b"1.2.840.10008.1.2.4.8"
PLANES = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an orientation of EXIF or TIFF."""
    if 5 <= orientation <= 8:
        pixels = np.swapaxes(pixels, 0, 1)
    return np.ascontiguousarray(np.flip(pixels, FLIPS.get(orientation, ())))


def from_cmyk(cmyk: Pixels) -> Pixels:
    """Return RGB as libtiff does: (255 - k) (255 - c) / 255, rounded down."""
    white = 255 - cmyk.astype(np.int32)
    return (white[..., :3] * white[..., 3:] // 255).astype(np.uint8)


def by_pillow(data: bytes) -> Pixels:
    """Decode by Pillow, any format."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        opened = Image.open(io.BytesIO(data))
        opened.load()
        # Pillow turns a TIFF upright while it loads it.
        return _from_pillow(opened if opened.format == "TIFF" else ImageOps.exif_transpose(opened))


def _from_pillow(image: Image.Image) -> Pixels:
    if image.mode in ("L", "RGB"):
        return np.asarray(image)
    if image.mode in ("1", "LA", "La"):
        return np.asarray(image.convert("L") if image.mode == "1" else image.getchannel(0))
    if image.mode == "P":
        return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))[..., :3]
    if image.mode in ("RGBA", "RGBX", "PA"):
        return np.asarray(image.convert("RGBA"))[..., :3]
    if image.mode == "CMYK":
        return from_cmyk(np.asarray(image))
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    raise ValueError(f"a Pillow image of mode {image.mode}")


class _Refusing(logging.Handler):
    """A handler that raises what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise the message."""
        raise ValueError(record.getMessage())


def by_tifffile(data: bytes) -> Pixels:
    """Decode a TIFF by tifffile and imagecodecs; each segment must decode to exactly its size."""
    import tifffile

    logger = logging.getLogger("tifffile")
    logger.handlers, logger.propagate = [_Refusing(logging.WARNING)], False
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        _check_segments(page, data)
        return _from_tifffile(page)


def _check_segments(page: Any, data: bytes) -> None:
    """Compare the size of each segment of plain bytes with what it decodes to."""
    import zlib

    import imagecodecs

    codecs: dict[int, Callable[[bytes], bytes]] = {
        1: bytes,
        5: imagecodecs.lzw_decode,
        8: zlib.decompress,
        32946: zlib.decompress,
        32773: imagecodecs.packbits_decode,
        34925: imagecodecs.lzma_decode,
        50000: imagecodecs.zstd_decode,
    }
    code = int(page.compression)
    for index, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        encoded = data[offset : offset + size]
        if len(encoded) != size:
            raise ValueError(f"segment {index} has {len(encoded)} of {size} bytes")
        if code in codecs:
            if page.fillorder == 2:
                encoded = encoded.translate(bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256)))
            _check_size(page, index, len(codecs[code](encoded)), exact=code != 1)


def _check_size(page: Any, index: int, size: int, *, exact: bool) -> None:
    if page.is_tiled:
        columns, full = page.tilewidth, page.tilelength
        rows = full
    else:
        columns, full = page.imagewidth, min(page.rowsperstrip, page.imagelength)
        rows = min(full, page.imagelength - full * (index % -(-page.imagelength // full)))
    samples = 1 if int(page.planarconfig) == 2 else page.samplesperpixel
    row_bytes = -(-columns * samples * page.bitspersample // 8)
    allowed = {row_bytes * rows, row_bytes * full}
    if (size not in allowed) if exact else size < min(allowed):
        raise ValueError(f"segment {index} has {size} bytes, not {row_bytes * rows}")


def _from_tifffile(page: Any) -> Pixels:
    samples = page.asarray()
    photometric, bits = int(page.photometric), page.bitspersample
    if samples.dtype not in (np.uint8, np.uint16, bool):
        raise ValueError(f"samples of {samples.dtype}")
    samples = samples.astype(np.uint8) if samples.dtype == bool else samples
    if int(page.planarconfig) == 2 and page.samplesperpixel > 1:
        samples = np.moveaxis(samples.reshape(page.samplesperpixel, page.imagelength, page.imagewidth), 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    if photometric == 3:
        colors = np.asarray(page.colormap).T
        return upright((colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)[samples[..., 0]], _turn(page))
    if bits < 8:
        samples = samples * np.uint8(255 // ((1 << bits) - 1))
    if photometric == 0:
        samples = ~samples
    if photometric == 5:
        return upright(from_cmyk(samples[..., :4]), _turn(page))
    return upright(samples[..., 0] if PLANES[photometric] == 1 else samples[..., :3], _turn(page))


def _turn(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def by_command(*command: str) -> Callable[[bytes], Pixels]:
    """Return a decoder that runs a program on a file, in place of "FILE", and reads the PNM that it writes."""

    def run(data: bytes) -> Pixels:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            words = [file.name if word == "FILE" else word for word in command]
            done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        if done.returncode or done.stderr:
            raise ValueError(done.stderr.decode(errors="replace")[-200:])
        return np.asarray(Image.open(io.BytesIO(done.stdout)))

    return run


def by_pydicom(data: bytes, *, plugin: str = "", window: tuple[float, float] | None = None, frame: int = 0) -> Pixels:
    """Decode a frame of a DICOM file by pydicom, with one of its plug-ins; the window by the standard's formula."""
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    with warnings.catch_warnings():
        warnings.simplefilter("error" if window is None else "ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
        stored = pixel_array(dataset, index=frame, decoding_plugin=plugin)
        if window is None:
            return stored
        shade = dataset.PhotometricInterpretation
        if shade == "PALETTE COLOR":
            colors = apply_color_lut(stored, dataset)
            return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors
        if not shade.startswith("MONOCHROME"):
            return stored
        return windowed(apply_modality_lut(_without_unused_bits(stored, dataset), dataset), shade, *window)


def _without_unused_bits(stored: Pixels, dataset: Any) -> Pixels:
    """Clear, or fill with the sign, the bits above BitsStored, which pydicom leaves as they are."""
    above = 32 - int(dataset.BitsStored)
    return stored.astype(np.int32) << above >> above if stored.dtype.kind == "i" else stored & ((1 << 32 - above) - 1)


def windowed(values: Pixels, photometric: str, center: float, width: float) -> Pixels:
    """Return the gray levels of a linear window; PS3.3, C.11.2.1.2.1."""
    if width == 1:
        shown = (values > center - 0.5).astype(np.float64)
    else:
        shown = np.clip((values.astype(np.float64) - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.floor(255 * (1 - shown if photometric == "MONOCHROME1" else shown) + 0.5).astype(np.uint8)


def by_dcmtk(data: bytes, *, window: tuple[float, float] | None = None, frame: int = 0) -> Pixels:
    """Decode a frame of a DICOM file by DCMTK."""
    options = ["+Ww", str(window[0]), str(window[1]), "+Wfl"] if window else []
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "a.dcm", Path(folder) / "a.pnm"
        path.write_bytes(data)
        # Each program knows the codecs of one family.
        program = "dcml2pnm" if JPEG_LS in data[:1000] else "dcmj2pnm"
        command = [program, "+F", str(frame + 1), *options, "+op", str(path), str(out)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode or b"E:" in done.stderr or b"W:" in done.stderr or not out.exists():
            raise ValueError(done.stderr.decode(errors="replace")[-200:])
        return np.asarray(Image.open(out))


def by_opencv(data: bytes) -> Pixels:
    """Decode by OpenCV, as it did for this project before."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise ValueError("OpenCV does not decode it")
    return image


DECODERS: dict[str, Callable[..., Any]] = {
    "Pillow": by_pillow,
    "tifffile": by_tifffile,
    "djpeg -strict": by_command("djpeg", "-strict", "-pnm", "FILE"),
    "dwebp": by_command("dwebp", "-quiet", "-ppm", "FILE", "-o", "-"),
    "DCMTK": by_dcmtk,
    "pydicom": by_pydicom,
    "OpenCV": by_opencv,
}
