"""TIFF by hand, by tifffile and by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from benchmarks.decoding.files.tiff import BYTES, SAMPLES, Layout, write_tiff
from benchmarks.decoding.images import ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, by_pillow, palette, size
from benchmarks.decoding.strict import from_cmyk, upright

Pixels = npt.NDArray[Any]
PLAIN = (None, "lzw", "deflate", "packbits", "zstd", "lzma")
TILES = ((16, 16), (16, 64), (64, 32), (128, 128), (256, 256))


class Kind(NamedTuple):
    """The samples of an image: their bits, their number, their photometric interpretation, ExtraSamples."""

    bits: int
    samples: int
    photometric: int
    extra: int | None = None


KINDS = {
    **{f"gray {bits} bit": Kind(bits, 1, 1) for bits in (1, 2, 4, 8, 16)},
    **{f"WhiteIsZero {bits} bit": Kind(bits, 1, 0) for bits in (1, 2, 4, 8, 16)},
    **{f"palette {bits} bit": Kind(bits, 1, 3) for bits in (1, 2, 4, 8)},
    "RGB 8 bit": Kind(8, 3, 2),
    "RGB 16 bit": Kind(16, 3, 2),
    "RGB 4 bit": Kind(4, 3, 2),
    "CMYK 8 bit": Kind(8, 4, 5),
    "RGB and alpha 8 bit": Kind(8, 4, 2, 2),
    "RGB and alpha 16 bit": Kind(16, 4, 2, 2),
    "RGB and unspecified 8 bit": Kind(8, 4, 2, 0),
    "gray and alpha 8 bit": Kind(8, 2, 1, 2),
    "gray and alpha 16 bit": Kind(16, 2, 1, 2),
    "RGB and premultiplied alpha 8 bit": Kind(8, 4, 2, 1),
    "CMYK 16 bit": Kind(16, 4, 5),
}
# What each codec of whole samples stores.
CODEC_KINDS = {
    "jpeg 2000": ("gray 8 bit", "gray 16 bit", "RGB 8 bit", "RGB 16 bit"),
    "jpeg xl": ("gray 8 bit", "gray 16 bit", "RGB 8 bit", "RGB 16 bit"),
    "jpeg xr": ("gray 8 bit", "gray 16 bit", "RGB 8 bit"),
    "webp": ("RGB 8 bit",),
    "png": ("gray 8 bit", "gray 16 bit", "RGB 8 bit"),
    "lerc": ("gray 8 bit", "gray 16 bit", "RGB 8 bit"),
}


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made = [(f"TIFF {codec}, {name}", _by_hand(codec, kind)) for codec in BYTES for name, kind in KINDS.items()]
    made += [
        (f"TIFF {codec}, {name}", _by_hand(codec, KINDS[name])) for codec in CODEC_KINDS for name in CODEC_KINDS[codec]
    ]
    made += [
        (f"TIFF {codec}, {name}", _jpeg(codec, name))
        for codec in SAMPLES
        if codec[:5] == "jpeg"
        for name in _jpegs(codec)
    ]
    made += [("TIFF orientations", _turned(turn)) for turn in range(1, 9) for _ in range(6)]
    made += [
        ("TIFF FillOrder 2", _reversed(codec)) for codec in ("none", "lzw", "packbits", "deflate") for _ in range(3)
    ]
    made += list(_by_tifffile()) + list(_written_by_pillow())
    return made


def shown(samples: Pixels, kind: Kind, colors: Pixels | None = None) -> Pixels:
    """Return what samples look like, without alpha."""
    if colors is not None:
        return colors[samples]
    if kind.bits < 8:
        samples = samples * np.uint8(255 // ((1 << kind.bits) - 1))
    if kind.photometric == 0:
        samples = ~samples
    if kind.photometric == 5 and kind.bits == 8:
        return from_cmyk(samples)
    return samples[..., 0] if kind.samples == 2 else samples[..., :3] if kind.samples > 3 else samples


def _parts(random: Random, codec: str) -> dict[str, Any]:
    """Return how an image is cut into strips or tiles, its byte order and its size of offsets."""
    step = 8 if codec.startswith("jpeg") else 1
    cut = random.choice(({}, {"rows": step * random.randrange(1, 20)}, {"tile": random.choice(TILES)}))
    return {**cut, "order": random.choice("<>"), "big": random.random() < 0.3}


def _by_hand(codec: str, kind: Kind) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        samples = ramp(height, width, kind.samples, kind.bits, random.randrange(99))
        parts = _parts(random, codec)
        if kind.samples > 1 and codec != "webp" and random.random() < 0.4:
            parts["planar"] = 2
        if codec in ("lzw", "deflate", "old deflate", "zstd", "lzma") and kind.bits >= 8 and random.random() < 0.5:
            parts["predictor"] = 2
        colors = palette(random, 1 << kind.bits) if kind.photometric == 3 else None
        colormap = () if colors is None else tuple(int(value) * 257 for value in colors.T.ravel())
        layout = Layout(codec, kind.bits, photometric=kind.photometric, extra=kind.extra, colormap=colormap, **parts)
        return Case(write_tiff(samples, layout).data, shown(samples, kind, colors), "tifffile")

    return make


def _jpegs(codec: str) -> tuple[str, ...]:
    return {"jpeg": ("gray", "YCbCr", "CMYK"), "jpeg 4:2:0": ("YCbCr",), "jpeg rgb": ("RGB",)}.get(codec, ())


def _jpeg(codec: str, name: str) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        samples = ramp(height, width, {"gray": 1, "CMYK": 4}.get(name, 3), 8, random.randrange(99))
        parts = _parts(random, codec)
        if "rows" in parts:
            parts["rows"] = 16 * random.randrange(1, 5)
        photometric = {"gray": 1, "YCbCr": 6, "RGB": 2, "CMYK": 5}[name]
        data = write_tiff(samples, Layout(codec, photometric=photometric, **parts)).data
        return Case(data, None, "Pillow" if name == "CMYK" else "tifffile")

    return make


def _turned(orientation: int) -> Maker:
    def make(random: Random) -> Case:
        kind = random.choice([KINDS[name] for name in ("gray 8 bit", "RGB 8 bit", "gray 16 bit", "gray 1 bit")])
        samples = ramp(*size(random), kind.samples, kind.bits)
        layout = Layout(random.choice(list(BYTES)), kind.bits, orientation=orientation, **_parts(random, ""))
        return Case(write_tiff(samples, layout).data, upright(shown(samples, kind), orientation), "tifffile")

    return make


def _reversed(codec: str) -> Maker:
    def make(random: Random) -> Case:
        kind = random.choice([KINDS[name] for name in ("gray 1 bit", "gray 4 bit", "gray 8 bit", "RGB 8 bit")])
        samples = ramp(*size(random), kind.samples, kind.bits)
        layout = Layout(codec, kind.bits, fill=2, photometric=kind.photometric, **_parts(random, ""))
        return Case(write_tiff(samples, layout).data, shown(samples, kind), "tifffile")

    return make


def _by_tifffile() -> Iterator[tuple[str, Maker]]:
    codecs = (None, "lzw", "deflate", "packbits", "zstd", "lzma", "jpeg2000", "png", "webp", "jpegxl")
    for codec in codecs:
        for gray in (True, False):
            for bits in (8, 16):
                if not (codec == "webp" and (gray or bits == 16)):
                    yield f"TIFF by tifffile, {codec or 'none'}", _tifffile(codec, gray, bits)
    for options in ({"imagej": True}, {"ome": True}):
        for gray in (True, False):
            for bits in (8,) if "imagej" in options and not gray else (8, 16):
                yield f"TIFF by tifffile, {next(iter(options))}", _tifffile(None, gray, bits, **options)
    for options in ({"imagej": True}, {"ome": True}, {}):
        yield "TIFF of several images", _stack(**options)


def _tifffile(codec: str | None, gray: bool, bits: int, **options: Any) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        height, width = height + 4, width + 4  # tifffile takes a side of 3 or 4 for samples
        pixels = ramp(height, width, 1 if gray else 3, bits, random.randrange(99))
        chosen: dict[str, Any] = {**options, "compression": codec, "photometric": "minisblack" if gray else "rgb"}
        if "imagej" not in options:
            chosen |= random.choice(({}, {"rowsperstrip": random.randrange(1, 40)}, {"tile": random.choice(TILES)}))
            chosen |= {"bigtiff": random.random() < 0.3, "byteorder": random.choice("<>") if codec in PLAIN else "<"}
            if codec in ("lzw", "deflate", "zstd", "lzma"):
                chosen["predictor"] = random.random() < 0.5
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **chosen)
        return Case(file.getvalue(), pixels, "Pillow" if codec in PLAIN else "tifffile")

    return make


def _stack(**options: Any) -> Maker:
    def make(random: Random) -> Case:
        file = io.BytesIO()
        tifffile.imwrite(file, np.stack([ramp(20, 30, 1)] * 3), photometric="minisblack", **options)
        return Case(file.getvalue(), ramp(20, 30, 1), "tifffile")

    return make


def _written_by_pillow() -> Iterator[tuple[str, Maker]]:
    for codec in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"):
        for mode in ("L", "RGB", "P", "1", "CMYK", "RGBA", "LA", "I;16"):
            if codec == "jpeg" and mode not in ("L", "RGB"):
                continue
            yield f"TIFF by Pillow, {codec}", _pillow(codec, mode)
    for codec in ("group3", "group4", "tiff_ccitt"):
        for _ in range(3):
            yield f"TIFF by Pillow, {codec}", _pillow(codec, "1")


def _pillow(codec: str, mode: str) -> Maker:
    def make(random: Random) -> Case:
        height, width = size(random)
        pixels = ramp(
            height, width, {"RGB": 3, "P": 3, "CMYK": 4, "RGBA": 4, "LA": 2}.get(mode, 1), 16 if ";" in mode else 8
        )
        if mode == "P":
            image = Image.fromarray(pixels).quantize(random.choice((4, 16, 256)))
        elif mode == "1":
            image = Image.fromarray(pixels).convert("1")
        else:
            image = Image.fromarray(pixels, mode) if mode == "CMYK" else Image.fromarray(pixels)
        data = by_pillow(image, "TIFF", compression=codec, tiffinfo={278: 16 * random.randrange(1, 5)})
        if codec in ("jpeg", "webp"):
            return Case(data, None, "tifffile")
        expected = {"P": lambda: np.asarray(image.convert("RGB")), "1": lambda: np.asarray(image.convert("L"))}
        expected |= {"CMYK": lambda: from_cmyk(pixels), "RGBA": lambda: pixels[..., :3], "LA": lambda: pixels[..., 0]}
        return Case(data, expected.get(mode, lambda: pixels)(), "tifffile")

    return make
