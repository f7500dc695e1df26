"""BMP by hand and by Pillow."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image

from benchmarks.decoding.files.bmp import (
    ALPHA_BITFIELDS,
    BITFIELDS,
    RLE4,
    RLE8,
    Bmp,
    pack_masks,
    pack_rows,
    run_lengths,
    write_bmp,
)
from benchmarks.decoding.images import ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, by_pillow, palette, size

HEADERS = (12, 40, 52, 56, 64, 108, 124)
MASKS_16 = {
    "555": (0x7C00, 0x3E0, 0x1F),
    "565": (0xF800, 0x7E0, 0x1F),
    "BGR 565": (0x1F, 0x7E0, 0xF800),
    "444": (0xF00, 0xF0, 0xF),
}
MASKS_32 = {
    "BGRX": (0xFF0000, 0xFF00, 0xFF),
    "RGBX": (0xFF, 0xFF00, 0xFF0000),
    "XBGR": (0xFF000000, 0xFF0000, 0xFF00),
    "XRGB": (0xFF00, 0xFF0000, 0xFF000000),
    "10 bits": (0x3FF00000, 0xFFC00, 0x3FF),
}
ALPHA_32 = {
    "BGRA": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "RGBA": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "ABGR": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    "ARGB": (0xFF00, 0xFF0000, 0xFF000000, 0xFF),
}


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made: Layouts = []
    for header in HEADERS:
        for bits in (1, 4, 8):
            made.append((f"BMP {bits} bit, header {header}", _indexed(bits, header)))
        made.append((f"BMP 24 bit, header {header}", _direct(24, header)))
        if header != 12:
            made += [(f"BMP {bits} bit, header {header}", _direct(bits, header)) for bits in (16, 32)]
            made.append((f"BMP RLE8, header {header}", _runs(8, header)))
            made.append((f"BMP RLE4, header {header}", _runs(4, header)))
        if header not in (12, 64):
            for masks in (MASKS_16, MASKS_32):
                bits = 16 if masks is MASKS_16 else 32
                made += [(f"BMP {bits} bit, masks {name}", _masked(bits, header, masks[name])) for name in masks]
        if header >= 56 and header != 64:
            made += [(f"BMP 32 bit, masks {name}", _masked(32, header, ALPHA_32[name])) for name in ALPHA_32]
    made += [(f"BMP RLE{bits}, empty rows", _runs(bits, 40, empty_rows=True)) for bits in (4, 8)]
    made += [("BMP 32 bit, BI_ALPHABITFIELDS", _masked(32, 40, ALPHA_32["BGRA"], ALPHA_BITFIELDS))]
    return made + [
        (f"BMP by Pillow, {mode}", _pillow(mode)) for mode in ("1", "L", "P", "RGB", "RGBA") for _ in range(3)
    ]


def _layout(random: Random, bits: int, header: int, compression: int = 0) -> Bmp:
    down = header != 12 and compression not in (RLE8, RLE4) and random.random() < 0.3
    return Bmp(bits, header, compression, down, gap=random.choice((0, 0, 4, 30)))


def _indexed(bits: int, header: int) -> Maker:
    def make(random: Random) -> Case:
        indices = ramp(*size(random), 1, bits)
        layout, colors = _layout(random, bits, header), palette(random, 1 << bits)
        if random.random() < 0.3:
            colors = np.repeat(colors[:, :1], 3, axis=1)
        data = write_bmp(*indices.shape, pack_rows(indices, bits, top_down=layout.top_down), layout, colors)
        return Case(data, colors[indices], "Pillow")

    return make


def _direct(bits: int, header: int) -> Maker:
    """Return a maker of rows of RGB without masks: 555 for 16 bits, BGRX for 32."""

    def make(random: Random) -> Case:
        pixels = ramp(*size(random), 3)
        layout, values, shown = _layout(random, bits, header), pixels, pixels
        if bits != 24:
            values, shown = pack_masks(pixels, MASKS_16["555"] if bits == 16 else MASKS_32["BGRX"])
        data = write_bmp(*pixels.shape[:2], pack_rows(values, bits, top_down=layout.top_down), layout)
        return Case(data, shown, "Pillow")

    return make


def _masked(bits: int, header: int, masks: tuple[int, ...], compression: int = BITFIELDS) -> Maker:
    def make(random: Random) -> Case:
        layout = _layout(random, bits, header, compression)._replace(masks=masks)
        values, shown = pack_masks(ramp(*size(random), 4), masks) if max(masks) != 0x3FF00000 else _deep(random, masks)
        data = write_bmp(*shown.shape[:2], pack_rows(values, bits, top_down=layout.top_down), layout)
        return Case(data, shown, "Pillow")

    return make


def _deep(random: Random, masks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of 10 bits a channel, and their high bytes."""
    pixels = ramp(*size(random), 3, 10).astype(np.uint32)
    packed = pixels[..., 0] << 20 | pixels[..., 1] << 10 | pixels[..., 2]
    return packed, (pixels * 255 // 1023).astype(np.uint8)


def _runs(bits: int, header: int, *, empty_rows: bool = False) -> Maker:
    def make(random: Random) -> Case:
        indices, colors = ramp(*size(random), 1, bits), palette(random, 1 << bits)
        body, shown = run_lengths(random, indices, bits, empty_rows=empty_rows)
        layout = _layout(random, bits, header, RLE8 if bits == 8 else RLE4)
        return Case(write_bmp(*indices.shape, body, layout, colors), colors[shown], "Pillow")

    return make


def _pillow(mode: str) -> Maker:
    def make(random: Random) -> Case:
        pixels = ramp(*size(random), {"RGB": 3, "RGBA": 4, "P": 3}.get(mode, 1))
        image = Image.fromarray(pixels)
        if mode in ("1", "P"):
            image = image.convert("1") if mode == "1" else image.quantize(random.choice((2, 16, 200)))
            pixels = np.asarray(image.convert("RGB"))
        return Case(by_pillow(image, "BMP"), pixels[..., :3] if pixels.ndim == 3 else pixels, "OpenCV")

    return make
