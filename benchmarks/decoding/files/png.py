"""PNG by hand: every color type, depth and filter, interlaced, with any chunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
MAGIC = b"\x89PNG\r\n\x1a\n"
# Where Adam7 starts and how far it steps: rows, columns.
PASSES = [((0, 8), (0, 8)), ((0, 8), (4, 8)), ((4, 8), (0, 4)), ((0, 4), (2, 4)), ((2, 4), (0, 2)), ((0, 2), (1, 2))]
PASSES += [((1, 2), (0, 1))]


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(
    random: Random, samples: Pixels, bits: int, color: int, *, interlaced: bool = False, chunks: Iterable[bytes] = ()
) -> bytes:
    """Return a PNG of samples (H, W, channels), with filters at random; `chunks` stand before the pixels."""
    height, width = samples.shape[:2]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced)))
    images = [samples]
    if interlaced:
        images = [samples[top::down, left::right] for (top, down), (left, right) in PASSES]
    lines = b"".join(_filtered(random, image, bits) for image in images if image.size)
    body = zlib.compress(lines, random.randrange(10))
    step = random.choice((len(body), 64, 1000))
    parts = [chunk(b"IDAT", body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join((MAGIC, head, *chunks, *parts, chunk(b"IEND", b"")))


def _filtered(random: Random, samples: Pixels, bits: int) -> bytes:
    if bits == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(len(samples), -1)
    elif bits == 8:
        rows = samples.astype(np.uint8).reshape(len(samples), -1)
    else:
        digits = samples.reshape(len(samples), -1, 1) >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    step = max(1, samples.shape[2] * bits // 8)
    lines, above = [], np.zeros(rows.shape[1], np.int32)
    for row in rows.astype(np.int32):
        kind = random.randrange(5)
        left, corner = (np.concatenate([np.zeros(step, np.int32), line])[: len(row)] for line in (row, above))
        guess = (0 * row, left, above, (left + above) // 2, _paeth(left, above, corner))[kind]
        lines.append(bytes([kind]) + (row - guess).astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


def _paeth(left: Pixels, above: Pixels, corner: Pixels) -> Pixels:
    guess = left + above - corner
    by_left, by_above, by_corner = (np.abs(guess - value) for value in (left, above, corner))
    near = np.where(by_above <= by_corner, above, corner)
    return np.where((by_left <= by_above) & (by_left <= by_corner), left, near)
