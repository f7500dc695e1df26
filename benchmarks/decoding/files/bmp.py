"""BMP by hand: every header, depth, bit mask and compression."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
STORED, RLE8, RLE4, BITFIELDS, ALPHA_BITFIELDS = 0, 1, 2, 3, 6


class Bmp(NamedTuple):
    """How a BMP is laid out; `masks` are of red, green, blue and alpha."""

    bits: int
    header: int = 40
    compression: int = STORED
    top_down: bool = False
    masks: tuple[int, ...] = ()
    gap: int = 0


def write_bmp(height: int, width: int, rows: bytes, layout: Bmp, colors: Pixels | None = None) -> bytes:
    """Return a BMP of rows that are encoded already, and of a palette, uint8 (N, 3) RGB."""
    head = _header(height, width, len(rows), layout, 0 if colors is None else len(colors))
    palette = b""
    if colors is not None:
        rest = b"" if layout.header == 12 else b"\0"
        palette = b"".join(bytes(color[::-1]) + rest for color in colors.tolist())
    start = 14 + len(head) + len(palette) + layout.gap
    file = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    return file + head + palette + bytes(layout.gap) + rows


def _header(height: int, width: int, size: int, layout: Bmp, colors: int) -> bytes:
    if layout.header == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, layout.bits)
    down = -height if layout.top_down else height
    head = struct.pack(
        "<IiiHHIIiiII", layout.header, width, down, 1, layout.bits, layout.compression, size, 2835, 2835, colors, 0
    )
    masks = b"".join(struct.pack("<I", mask) for mask in layout.masks)
    if layout.header == 40:
        return head + masks
    return (head + masks).ljust(layout.header, b"\0")


def pack_rows(values: Pixels, bits: int, *, top_down: bool = False) -> bytes:
    """Return rows of numbers of 1 to 32 bits, or of RGB for 24, each padded to a multiple of 4 bytes."""
    values = values if top_down else values[::-1]
    if bits == 24:
        rows = values[..., ::-1].reshape(len(values), -1).astype(np.uint8)
    elif bits >= 8:
        rows = values.astype(f"<u{bits // 8}").view(np.uint8).reshape(len(values), -1)
    else:
        digits = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()


def pack_masks(rgba: Pixels, masks: Sequence[int]) -> tuple[Pixels, Pixels]:
    """Return the numbers that hold colors under masks, and the colors that they stand for, uint8 (H, W, 3).

    A level of n bits stands for floor(255 level / (2 ** n - 1)).
    """
    packed = np.zeros(rgba.shape[:2], np.uint64)
    shown = []
    for channel, mask in enumerate(masks):
        bits = mask.bit_count()
        if not mask:
            continue
        level = rgba[..., channel].astype(np.uint64) >> np.uint64(8 - bits)
        packed |= level << np.uint64((mask & -mask).bit_length() - 1)
        shown.append((level * np.uint64(255) // np.uint64((1 << bits) - 1)).astype(np.uint8))
    return packed, np.dstack(shown[:3])


def run_lengths(random: Random, indices: Pixels, bits: int, *, empty_rows: bool = False) -> tuple[bytes, Pixels]:
    """Return the run lengths of indices, with runs, literals, short rows and jumps; and the indices that they give."""
    height, width = indices.shape
    shown, body, row = np.zeros_like(indices), bytearray(), 0
    while row < height:
        column = 0
        while column < width:
            way, left = random.random(), width - column
            if way < 0.05 and (column or empty_rows):  # the rest of the row stays 0
                break
            if way < 0.1 and left > 3:  # a jump to the right
                step = random.randrange(1, left)
                body += bytes((0, 2, step, 0))
                column += step
                continue
            count = min(left, random.randrange(1, 20))
            part = indices[height - 1 - row, column : column + count]
            if way < 0.5 or count < 3:
                part = np.full_like(part, part[0])
                body += bytes((count, int(part[0]) * (17 if bits == 4 else 1)))
            else:
                body += bytes((0, count)) + _literals(part, bits)
            shown[height - 1 - row, column : column + count] = part
            column += count
        body += b"\0\0"
        row += 1
    return bytes(body) + b"\0\1", shown


def _literals(part: Pixels, bits: int) -> bytes:
    if bits == 4:
        part = np.pad(part, (0, len(part) % 2))
        part = part[::2] << 4 | part[1::2]
    return part.tobytes() + bytes(len(part) % 2)
