"""DICOM by pydicom: transfer syntaxes, photometric interpretations, depths, signs, frames, with an explicit window."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.pixels.encoders import RLELosslessEncoder

from benchmarks.decoding.files.dicom import ROOT, describe, save
from benchmarks.decoding.images import image as real_image, ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, palette, size
from benchmarks.decoding.strict import windowed

Pixels = npt.NDArray[Any]
Window = tuple[float, float]
SYNTAXES = {"implicit": ROOT, "explicit": f"{ROOT}.1", "big-endian": f"{ROOT}.2", "deflated": f"{ROOT}.1.99"}
LOSSLESS: dict[str, tuple[str, Callable[[Pixels], bytes], dict[str, Any]]] = {
    "JPEG lossless": (f"{ROOT}.4.70", lambda x: imagecodecs.jpeg8_encode(x, lossless=True, predictor=1), {}),
    "JPEG lossless, predictor 6": (
        f"{ROOT}.4.57",
        lambda x: imagecodecs.jpeg8_encode(x, lossless=True, predictor=6),
        {},
    ),
    "JPEG-LS": (f"{ROOT}.4.80", lambda x: imagecodecs.jpegls_encode(x), {"plugin": "gdcm"}),
    "JPEG 2000": (
        f"{ROOT}.4.90",
        lambda x: imagecodecs.jpeg2k_encode(x, reversible=True, codecformat="j2k"),
        {"plugin": "pylibjpeg"},
    ),
    "HTJ2K": (f"{ROOT}.4.201", lambda x: imagecodecs.htj2k_encode(x, reversible=True), {"plugin": "pylibjpeg"}),
}
LOSSY: dict[str, tuple[str, Callable[[Pixels], bytes], str]] = {
    "JPEG-LS, near-lossless": (f"{ROOT}.4.81", lambda x: imagecodecs.jpegls_encode(x, level=3), "gdcm"),
    "JPEG 2000, lossy": (
        f"{ROOT}.4.91",
        lambda x: imagecodecs.jpeg2k_encode(x, level=40, codecformat="j2k"),
        "pylibjpeg",
    ),
}


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made: Layouts = []
    for syntax in SYNTAXES:
        for stored in (8, 10, 12, 16):
            made += [(f"DICOM {syntax}, gray {stored} bit", _gray(syntax, stored, signed=False))] * 2
            made += [(f"DICOM {syntax}, gray {stored} bit, signed", _gray(syntax, stored, signed=True))] * 2
        made += [
            (f"DICOM {syntax}, {name}", _color(syntax, name)) for name in ("RGB", "RGB, planar", "YBR_FULL", "palette")
        ]
        made += [(f"DICOM {syntax}, frames", _frames(syntax))] * 2
    made += [(f"DICOM RLE, gray {bits} bit", _run_lengths(bits, 1)) for bits in (8, 16) for _ in range(3)]
    made += [("DICOM RLE, RGB", _run_lengths(8, 3))] * 3
    for name in LOSSLESS:
        # libjpeg-turbo's encoder writes other pixels for predictors 5 to 7 of 16 bits.
        depths = (8, 12) if name.endswith("6") else (8, 12, 16)
        made += [(f"DICOM {name}, gray {bits} bit", _lossless(name, bits)) for bits in depths for _ in range(3)]
        made += [(f"DICOM {name}, RGB", _lossless(name, 8, 3))] * 2
    for name in LOSSY:
        made += [(f"DICOM {name}, gray {bits} bit", _lossy(name, bits)) for bits in (8, 12) for _ in range(3)]
    made += [(f"DICOM JPEG baseline, {name}", _baseline(name)) for name in ("gray", "color") for _ in range(4)]
    return made


def _window(random: Random, low: float, high: float) -> Window:
    """Return a window within a range of values: all of it, or a part."""
    width = float(random.choice((high - low + 1, random.randrange(2, max(3, int(high - low))))))
    return float(random.choice(((low + high + 1) / 2, random.randrange(int(low), int(high) + 1)))), width


def _gray(syntax: str, stored: int, *, signed: bool) -> Maker:
    def make(random: Random) -> Case:
        pixels = ramp(*size(random), 1, stored, random.randrange(99))
        if signed:
            pixels = (pixels.astype(np.int32) - (1 << stored - 1)).astype(np.int8 if stored == 8 else np.int16)
        photometric = random.choice(("MONOCHROME1", "MONOCHROME2"))
        tags = {"BitsStored": stored, "PhotometricInterpretation": photometric}
        slope, intercept = random.choice(((1, 0), (1, -1024), (2, 5), (0.5, -10)))
        if (slope, intercept) != (1, 0):
            tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        values = pixels.astype(np.float64) * slope + intercept
        window = _window(random, values.min(), values.max())
        data = save(describe(pixels, **tags), SYNTAXES[syntax], _native(pixels, syntax))
        # DCMTK rounds rescaled values to integers.
        other = "pydicom" if slope == 0.5 else "DCMTK"
        return Case(data, windowed(values, photometric, *window), other, 1, {"window": window})

    return make


def _native(pixels: Pixels, syntax: str) -> bytes:
    return pixels.astype(pixels.dtype.newbyteorder(">" if syntax == "big-endian" else "<")).tobytes()


def _color(syntax: str, name: str) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        pixels = ramp(height, width, 1 if name == "palette" else 3, 8, random.randrange(99))
        tags: dict[str, Any] = {}
        expected: Pixels | None = pixels
        if name == "palette":
            colors = palette(random, 256)
            expected, tags["PhotometricInterpretation"] = colors[pixels], "PALETTE COLOR"
            for channel, word in enumerate(("Red", "Green", "Blue")):
                entries = colors[:, channel].astype(">u2" if syntax == "big-endian" else "<u2") * 257
                tags[f"{word}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
                tags[f"{word}PaletteColorLookupTableData"] = entries.tobytes()
        elif name == "YBR_FULL":
            expected, tags["PhotometricInterpretation"] = None, "YBR_FULL"
        body = pixels
        if name == "RGB, planar":
            tags["PlanarConfiguration"], body = 1, np.moveaxis(pixels, -1, 0)
        data = save(describe(pixels, **tags), SYNTAXES[syntax], body.tobytes())
        return Case(data, expected, "pydicom", 1, {"window": (128.0, 256.0)})

    return make


def _frames(syntax: str) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        frames = [ramp(height, width, 1, 8, seed) for seed in range(3)]
        chosen = random.randrange(3)
        data = save(describe(frames[0], NumberOfFrames=3), SYNTAXES[syntax], b"".join(x.tobytes() for x in frames))
        return Case(data, frames[chosen], "DCMTK", 1, {"window": (128.0, 256.0), "frame": chosen})

    return make


def _run_lengths(bits: int, samples: int) -> Maker:
    def make(random: Random) -> Case:
        pixels = ramp(*size(random), samples, bits, random.randrange(99))
        dataset = describe(pixels)
        parts = {"rows": dataset.Rows, "columns": dataset.Columns, "samples_per_pixel": samples, "number_of_frames": 1}
        parts |= {"bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0}
        parts |= {"photometric_interpretation": dataset.PhotometricInterpretation}
        parts |= {"planar_configuration": 0} if samples == 3 else {}
        stream = RLELosslessEncoder.encode(pixels, encoding_plugin="pydicom", **parts)
        return _case(random, save(dataset, f"{ROOT}.5", stream, encapsulated=True), pixels, "pydicom")

    return make


def _case(random: Random, data: bytes, pixels: Pixels, other: str, **options: Any) -> Case:
    window = (128.0, 256.0) if pixels.ndim == 3 else _window(random, 0, int(pixels.max()))
    expected = pixels if pixels.ndim == 3 else windowed(pixels, "MONOCHROME2", *window)
    return Case(data, expected, other, 1, {"window": window}, options)


def _lossless(name: str, bits: int, channels: int = 1) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        # OpenJPEG's encoder takes no image that is too small for its five resolutions.
        pixels = ramp(height + 32, width + 32, channels, bits, random.randrange(99))
        syntax, encode, options = LOSSLESS[name]
        tags: dict[str, Any] = {"BitsStored": bits if name not in ("HTJ2K", "JPEG 2000") else 8 * pixels.itemsize}
        if channels == 3 and name in ("JPEG 2000", "HTJ2K"):
            tags["PhotometricInterpretation"] = "YBR_RCT"
        data = save(describe(pixels, **tags), syntax, encode(pixels), encapsulated=True)
        if name.startswith("JPEG lossless") and (bits == 16 or channels == 3):  # DCMTK refuses these, or differs
            options = {"plugin": "gdcm"}
        return _case(random, data, pixels, "pydicom" if options else "DCMTK", **options)

    return make


def _lossy(name: str, bits: int) -> Maker:
    def make(random: Random) -> Case:
        pixels = ramp(64, 80, 1, bits, random.randrange(99))
        syntax, encode, plugin = LOSSY[name]
        data = save(describe(pixels), syntax, encode(pixels), encapsulated=True)
        window = (float(1 << bits - 1), float(1 << bits))
        return Case(data, None, "pydicom", 1, {"window": window}, {"plugin": plugin})

    return make


def _baseline(name: str) -> Maker:
    def make(random: Random) -> Case:
        pixels = real_image(random, gray=name == "gray")
        if name == "gray":
            stream, tags = imagecodecs.jpeg8_encode(pixels, level=85), {}
        else:
            stream = imagecodecs.jpeg8_encode(pixels, level=85, subsampling=random.choice(("422", "444", "420")))
            tags = {"PhotometricInterpretation": "YBR_FULL_422"}
        data = save(describe(pixels, **tags), f"{ROOT}.4.50", stream, encapsulated=True)
        return _case(random, data, np.asarray(Image.open(io.BytesIO(stream))), "DCMTK" if name == "gray" else "")

    return make
