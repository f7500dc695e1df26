"""PNG by hand and by Pillow."""

from __future__ import annotations

import io
import struct
from random import Random

import numpy as np
from PIL import Image

from benchmarks.decoding.files.png import chunk, write_png
from benchmarks.decoding.images import ramp
from benchmarks.decoding.layouts.case import Case, Layouts, Maker, by_pillow, palette, size
from benchmarks.decoding.strict import upright

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
NAMES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
METADATA = (
    chunk(b"gAMA", struct.pack(">I", 45455)),
    chunk(b"sRGB", b"\0"),
    chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    chunk(b"tEXt", b"Comment\0text"),
    chunk(b"tIME", struct.pack(">HBBBBB", 2024, 5, 6, 1, 2, 3)),
    chunk(b"prVt", b"private"),
)


def layouts() -> Layouts:
    """Return a maker of each layout."""
    made: Layouts = []
    for color, depths in DEPTHS.items():
        for bits in depths:
            for interlaced in (False, True):
                name = f"PNG {NAMES[color]} {bits} bit{', interlaced' if interlaced else ''}"
                made += [(name, _by_hand(color, bits, interlaced=interlaced))] * 3
                if color in (0, 2, 3):
                    made.append((f"{name}, tRNS", _by_hand(color, bits, interlaced=interlaced, transparent=True)))
    made += [("PNG eXIf orientations", _turned(turn)) for turn in range(1, 9) for _ in range(4)]
    made += [(f"PNG by Pillow, {mode}", _pillow(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    made += [("APNG", _animated)]
    return made


def _exif(orientation: int) -> bytes:
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _by_hand(color: int, bits: int, *, interlaced: bool, transparent: bool = False, orientation: int = 0) -> Maker:
    def make(random: Random) -> Case:
        samples = ramp(*size(random), CHANNELS[color], bits, random.randrange(99))
        samples = samples[..., None] if samples.ndim == 2 else samples
        colors = palette(random, 1 << bits)
        chunks = random.sample(METADATA, random.randrange(3))
        chunks += [chunk(b"PLTE", colors.tobytes())] if color == 3 else []
        if transparent:
            first = samples[0, 0].tolist()
            body = bytes(range(1 << bits))[:7] if color == 3 else struct.pack(f">{len(first)}H", *first)
            chunks.append(chunk(b"tRNS", body))
        if orientation:
            chunks.append(chunk(b"eXIf", _exif(orientation)))
        data = write_png(random, samples, bits, color, interlaced=interlaced, chunks=chunks)
        shown = colors[samples[..., 0]] if color == 3 else samples[..., : 1 if color in (0, 4) else 3]
        if color == 0 and bits < 8:
            shown = shown * np.uint8(255 // ((1 << bits) - 1))
        shown = shown[..., 0] if shown.shape[2] == 1 else shown
        return Case(data, upright(shown, orientation), "Pillow")

    return make


def _turned(orientation: int) -> Maker:
    def make(random: Random) -> Case:
        color = random.choice((0, 2, 3, 6))
        return _by_hand(color, random.choice(DEPTHS[color]), interlaced=False, orientation=orientation)(random)

    return make


def _pillow(mode: str) -> Maker:
    def make(random: Random) -> Case:
        deep = 16 if ";" in mode else 8
        pixels = ramp(*size(random), {"LA": 2, "P": 3, "RGB": 3, "RGBA": 4}.get(mode, 1), deep)
        image = Image.fromarray(pixels)
        if mode in ("1", "P"):
            image = image.convert("1") if mode == "1" else image.quantize(random.choice((2, 16, 200)))
            pixels = np.asarray(image.convert("RGB"))
        shown = pixels[..., 0] if mode == "LA" else pixels[..., :3] if pixels.ndim == 3 else pixels
        return Case(by_pillow(image, "PNG", compress_level=random.randrange(10)), shown, "OpenCV" if deep == 8 else "")

    return make


def _animated(random: Random) -> Case:
    frames = [Image.fromarray(ramp(20, 30, seed=seed)) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return Case(file.getvalue(), None, "Pillow")
