"""Faults F1 to F23 of PNG, JPEG, TIFF, WebP and BMP files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tests.faults.files import Pixels, encode, noise, png_of, sized_png, tiff
from tests.faults.rows import HEIGHT, WIDTH, Row, cut, deep, gray, high_bytes, jpeg, of_12_bits, png, rgb

HUGE = 100_000
BACKGROUND = [10, 200, 90]
OVER = {"alpha": {"over": BACKGROUND}}
CROP = {"fit": {"crop": {"resize": 16}}}
RANGE = {"depth16": {"rule": "range", "low": 0, "high": 4095}}
LOSSLESS: dict[str, dict[str, Any]] = {
    "png": {},
    "webp": {"lossless": True},
    "jpeg": {"quality": 100, "subsampling": 0},  # nearly
}


def shown(data: bytes) -> Pixels:
    """Return what Pillow shows, which has other code around the same decoders."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_wrong_bit(data: bytes, place: int) -> bytes:
    """Return a file with one bit turned over."""
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def png16(pixels: Pixels) -> bytes:
    """Return a PNG of 16 bits."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def palette() -> Image.Image:
    """Return a picture of 16 colours."""
    return Image.fromarray(rgb()).quantize(16)


def palette_colors() -> Pixels:
    """Return its colours."""
    return np.asarray(palette().convert("RGB"))


def rgba(alpha: Pixels) -> bytes:
    """Return a PNG with transparency."""
    return encode(np.dstack([rgb(), alpha]), "PNG")


def stencil() -> Pixels:
    """Return a transparency that is all or nothing."""
    return np.where(gray() < 128, 0, 255).astype(np.uint8)


def on_background() -> Pixels:
    """Return `rgb` where that lets it through, and the background elsewhere."""
    return np.where(stencil()[..., None], rgb(), np.uint8(BACKGROUND))


def cmyk() -> bytes:
    """Return a JPEG of four inks, which Pillow writes inverted, with Adobe's marker, as Photoshop does."""
    return encode(Image.fromarray(rgb()).convert("CMYK"), "JPEG", quality=100)


def turned(kind: str, orientation: int) -> bytes:
    """Return a file that lies, with an EXIF block that says how."""
    return encode(rgb(), kind, orientation=orientation, **LOSSLESS[kind])


def upright(orientation: int) -> Pixels:
    """Return what it shows when it stands."""
    pixels = rgb().swapaxes(0, 1) if orientation >= 5 else rgb()
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(pixels, flips))


def frames(kind: str) -> bytes:
    """Return a file of three pictures."""
    pages = [Image.fromarray(np.roll(rgb(), step, 0)) for step in range(3)]
    return encode(pages[0], kind, save_all=True, append_images=pages[1:])


def promise(kind: str) -> bytes:
    """Return a small file that promises 10 gigapixels, or as many as its format can."""
    if kind == "png":
        return sized_png(HUGE, HUGE)
    if kind == "tiff":
        return tiff(rgb(), t256=HUGE, t257=HUGE)
    data = bytearray(encode(rgb(), kind, **LOSSLESS.get(kind, {})))
    if kind == "bmp":
        struct.pack_into("<ii", data, 18, HUGE, HUGE)
    elif kind == "jpeg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65_000, 65_000)
    else:
        struct.pack_into("<I", data, 21, 0x0FFFFFFF)
    return bytes(data)


def png_bomb(side: int = 20_000) -> bytes:
    """Return 400 megapixels that are really there, in 50 kB."""
    pump = zlib.compressobj()
    row = bytes(1 + side // 8)
    body = b"".join(pump.compress(row * 1000) for _ in range(side // 1000)) + pump.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")])


def tiff_bomb() -> bytes:
    """Return 110 megapixels that are really there, in 14 kB."""
    return encode(Image.new("1", (11_000, 10_000)), "TIFF", compression="tiff_deflate")


def black() -> Pixels:
    """Return a picture of nothing."""
    return np.zeros((HEIGHT, WIDTH, 3), np.uint8)


PICTURES = [
    Row(1, "empty.png", lambda: b"", "empty_file"),
    Row(2, "text.jpg", lambda: b"a diary, not a picture", "not_an_image"),
    Row(3, "half.jpg", lambda: cut(jpeg(), 0.5), "truncated"),
    Row(4, "less-20-bytes.jpg", lambda: jpeg()[:-20], "truncated"),
    Row(5, "header.jpg", lambda: jpeg()[:100], "truncated"),
    Row(6, "half.png", lambda: cut(png(), 0.5), "truncated"),
    Row(7, "pixels-checksum.png", lambda: with_wrong_bit(png(), 1000), "corrupt"),
    Row(8, "header-checksum.png", lambda: with_wrong_bit(png(), 30), "corrupt"),
    Row(9, "jpeg.png", jpeg, lambda: shown(jpeg())),
    Row(10, "16-bit.png", lambda: png16(deep()), high_bytes),
    Row(10, "16-bit.tiff", lambda: tiff(deep()), high_bytes),
    Row(10, "12-in-16.png", lambda: png16(deep() >> 4), of_12_bits, RANGE),
    Row(11, "1-bit.png", lambda: encode(gray() > 90, "PNG"), lambda: np.uint8(255) * (gray() > 90)),
    Row(12, "palette.png", lambda: encode(palette(), "PNG"), palette_colors),
    Row(12, "palette-alpha.png", lambda: encode(palette(), "PNG", transparency=3), palette_colors),
    Row(13, "rgba.png", lambda: rgba(gray()), rgb),
    Row(13, "la.png", lambda: encode(np.dstack([gray(), 255 - gray()]), "PNG"), gray),
    Row(13, "over.png", lambda: rgba(stencil()), on_background, OVER),
    Row(14, "cmyk.jpg", cmyk, lambda: shown(cmyk())),
    *[
        Row(15, f"turned-{way}.{kind}", lambda kind=kind, way=way: turned(kind, way), lambda way=way: upright(way))
        for kind in LOSSLESS
        for way in range(1, 9)
    ],
    Row(16, "animated-gif.png", lambda: frames("GIF"), "not_an_image"),
    Row(16, "animated.webp", lambda: frames("WEBP"), "multi_frame"),
    Row(16, "animated.png", lambda: frames("PNG"), "multi_frame"),
    Row(16, "pages.tiff", lambda: frames("TIFF"), "multi_frame"),
    Row(17, "float32.tiff", lambda: tiff(np.float32(gray())), "unsupported_dtype"),
    Row(18, "nan.tiff", lambda: tiff(np.full((9, 9), np.nan, np.float32)), "unsupported_dtype"),
    *[
        Row(19, f"promise.{kind}", lambda kind=kind: promise(kind), "too_large")
        for kind in ("png", "jpeg", "bmp", "webp", "tiff")
    ],
    Row(20, "bomb.png", png_bomb, "too_large"),
    Row(21, "bomb.tiff", tiff_bomb, "too_large"),
    Row(22, "1x1.png", lambda: encode(rgb()[:1, :1], "PNG"), lambda: rgb()[:1, :1]),
    Row(22, "3x2000.png", lambda: encode(noise(2000, 3), "PNG"), lambda: noise(2000, 3)),
    Row(22, "3x2000-cut.png", lambda: encode(noise(2000, 3), "PNG"), lambda: noise(2000, 3), CROP),
    Row(22, "too-small.png", lambda: encode(rgb()[:7], "PNG"), "too_small", {"min_side": 8}),
    Row(23, "black.png", lambda: encode(black(), "PNG"), black),
]
