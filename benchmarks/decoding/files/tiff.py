"""TIFF by hand: any byte order, layout and compression that has an encoder, classic or BigTIFF."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
TYPES = {3: "H", 4: "I", 16: "Q", 2: "s"}


class Tiff(NamedTuple):
    """A file, and where its pixel data start; they reach to its end."""

    data: bytes
    start: int


class Layout(NamedTuple):
    """How pixels are laid out. `bits` is of a sample; `extra` is the value of ExtraSamples of the last channel."""

    compression: str = "none"
    bits: int = 8
    order: str = "<"
    big: bool = False
    rows: int = 0
    tile: tuple[int, int] | None = None
    planar: int = 1
    predictor: int = 1
    fill: int = 1
    photometric: int | None = None
    extra: int | None = None
    orientation: int = 1
    colormap: tuple[int, ...] = ()


def _packbits(block: bytes, row_bytes: int) -> bytes:
    """Pack each row by itself, as TIFF 6.0 asks."""
    rows = range(0, len(block), max(1, row_bytes))
    return b"".join(imagecodecs.packbits_encode(block[at : at + row_bytes]) for at in rows)


BYTES: dict[str, tuple[int, Callable[[bytes, int], bytes]]] = {
    "none": (1, lambda block, _: block),
    "lzw": (5, lambda block, _: imagecodecs.lzw_encode(block)),
    "deflate": (8, lambda block, _: zlib.compress(block)),
    "old deflate": (32946, lambda block, _: zlib.compress(block, 1)),
    "packbits": (32773, _packbits),
    "zstd": (50000, lambda block, _: imagecodecs.zstd_encode(block)),
    "lzma": (34925, lambda block, _: imagecodecs.lzma_encode(block)),
}
SAMPLES: dict[str, tuple[int, Callable[[Pixels], bytes]]] = {
    "jpeg": (7, lambda block: imagecodecs.jpeg8_encode(block, level=90, subsampling="444")),
    "jpeg 4:2:0": (7, lambda block: imagecodecs.jpeg8_encode(block, level=85, subsampling="420")),
    "jpeg rgb": (7, lambda block: imagecodecs.jpeg8_encode(block, level=90, colorspace=2, outcolorspace=2)),
    "jpeg 2000": (34712, lambda block: imagecodecs.jpeg2k_encode(block, reversible=True, codecformat="j2k")),
    "jpeg xl": (50002, lambda block: imagecodecs.jpegxl_encode(block, lossless=True)),
    "jpeg xr": (34934, lambda block: imagecodecs.jpegxr_encode(block, level=1.0)),
    "webp": (50001, lambda block: imagecodecs.webp_encode(block, lossless=True)),
    "png": (34933, lambda block: imagecodecs.png_encode(block)),
    "lerc": (34887, lambda block: imagecodecs.lerc_encode(block)),
}


def write_tiff(pixels: Pixels, layout: Layout) -> Tiff:
    """Write a TIFF.

    Args:
        pixels: uint8 or uint16, (H, W) or (H, W, samples), as the samples are stored.
        layout: How they are laid out.
    """
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    segments = [_encode(block, layout) for block in _blocks(planes, layout)]
    if layout.fill == 2:
        segments = [segment.translate(REVERSED) for segment in segments]
    return _assemble(_tags(planes, layout, segments), segments, layout)


def _blocks(planes: Pixels, layout: Layout) -> Iterator[Pixels]:
    """Yield the samples of each strip or tile."""
    height, width, samples = planes.shape
    channels = [slice(at, at + 1) for at in range(samples)] if layout.planar == 2 else [slice(0, samples)]
    down, across = layout.tile or (layout.rows or height, width)
    padded = np.pad(planes, ((0, -height % down), (0, -width % across), (0, 0)), "edge") if layout.tile else planes
    for channel in channels:
        for row in range(0, height, down):
            for column in range(0, width, across):
                yield np.ascontiguousarray(padded[row : row + down, column : column + across, channel])


def _encode(block: Pixels, layout: Layout) -> bytes:
    if layout.compression in SAMPLES:
        return SAMPLES[layout.compression][1](block[..., 0] if block.shape[2] == 1 else block)
    if layout.predictor == 2:
        block = np.concatenate([block[:, :1], block[:, 1:] - block[:, :-1]], axis=1)
    stored = _pack(block, layout)
    return BYTES[layout.compression][1](stored, len(stored) // len(block))


def _pack(block: Pixels, layout: Layout) -> bytes:
    if layout.bits == 16:
        return block.astype(layout.order + "u2").tobytes()
    if layout.bits == 8:
        return block.tobytes()
    rows = block.reshape(len(block), -1, 1) >> np.arange(layout.bits - 1, -1, -1, dtype=np.uint8) & 1
    return np.packbits(rows.reshape(len(block), -1).astype(np.uint8), axis=1).tobytes()


def _tags(planes: Pixels, layout: Layout, segments: list[bytes]) -> dict[int, tuple[int, tuple[int, ...]]]:
    height, width, samples = planes.shape
    code = (SAMPLES.get(layout.compression) or BYTES[layout.compression])[0]
    photometric = layout.photometric if layout.photometric is not None else (2 if samples >= 3 else 1)
    place = (324, 325) if layout.tile else (273, 279)
    tags = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (layout.bits,) * samples),
        259: (3, (code,)),
        262: (3, (photometric,)),
        277: (3, (samples,)),
        284: (3, (layout.planar,)),
        place[0]: (16 if layout.big else 4, (0,) * len(segments)),
        place[1]: (4, tuple(len(segment) for segment in segments)),
    }
    if layout.tile:
        tags |= {322: (3, (layout.tile[1],)), 323: (3, (layout.tile[0],))}
    else:
        tags[278] = (4, (layout.rows or height,))
    optional = {266: (layout.fill, 1), 274: (layout.orientation, 1), 317: (layout.predictor, 1)}
    tags |= {tag: (3, (value,)) for tag, (value, usual) in optional.items() if value != usual}
    if layout.extra is not None:
        tags[338] = (3, (layout.extra,))
    if layout.colormap:
        tags[320] = (3, layout.colormap)
    if photometric == 6:
        tags[530] = (3, (2, 2) if layout.compression.endswith("4:2:0") else (1, 1))
    return tags


def _assemble(tags: dict[int, tuple[int, tuple[int, ...]]], segments: list[bytes], layout: Layout) -> Tiff:
    """Put the header, the directory, its values and the segments one after the other."""
    word = "Q" if layout.big else "I"
    size = struct.calcsize(layout.order + word)
    head = struct.pack(layout.order + ("HHHQ" if layout.big else "HI"), *((43, 8, 0, 16) if layout.big else (42, 8)))
    counter = layout.order + ("Q" if layout.big else "H")
    entry = struct.calcsize(layout.order + "HH" + word) + size
    beyond = 2 + len(head) + struct.calcsize(counter) + entry * len(tags) + size
    lengths = {
        tag: struct.calcsize(f"{layout.order}{len(values)}{TYPES[kind]}") for tag, (kind, values) in tags.items()
    }
    start = beyond + sum(length + length % 2 for length in lengths.values() if length > size)
    place = 324 if 324 in tags else 273
    offsets, at = [], start
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    tags[place] = (tags[place][0], tuple(offsets))
    directory, rest = struct.pack(counter, len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{layout.order}{len(values)}{TYPES[kind]}", *values)
        if len(packed) > size:
            where = beyond + len(rest)
            rest += packed + bytes(len(packed) % 2)
            packed = struct.pack(layout.order + word, where)
        directory += struct.pack(layout.order + "HH" + word, tag, kind, len(values)) + packed.ljust(size, b"\0")
    magic = b"II" if layout.order == "<" else b"MM"
    return Tiff(magic + head + directory + bytes(size) + rest + b"".join(segments), start)
