"""The layout of a TIFF: where its strips or tiles are, and which samples they hold."""

from __future__ import annotations

from typing import NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging._limits import max_parts
from medinfer.imaging.tiff._header import TiffHeader

ROWS_PER_STRIP, STRIP_OFFSETS, STRIP_BYTES, PLANAR = 278, 273, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
STRIPS, TILES = (STRIP_OFFSETS, STRIP_BYTES), (TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES)
HEADER_BYTES = 8
SEGMENT_PIXELS = 1 << 24
"""Of a tile that is larger than its image."""


class Segment(NamedTuple):
    """One strip or tile: where its bytes are, and which samples it holds."""

    start: int
    size: int
    row: int
    column: int
    rows: int
    """As many as are stored; a tile has them all, and a last strip those that are left."""
    columns: int
    plane: slice
    full_rows: int

    @property
    def samples(self) -> int:
        """Number of samples of a pixel in it."""
        return int(self.plane.stop - self.plane.start)


def read_layout(tiff: TiffHeader) -> list[Segment]:
    """Return the strips or tiles, plane by plane, row by row; raises ImageError `corrupt` or `too_large`."""
    directory = tiff.directory
    tiled = TILE_WIDTH in directory
    if any(tag in directory for tag in (STRIPS if tiled else TILES)):
        raise ImageError("corrupt", "a TIFF of both strips and tiles")
    height, width = _segment_sides(tiff, tiled=tiled)
    planes = tiff.samples if directory.value(PLANAR, 1) == 2 else 1
    corners = [(row, column) for row in range(0, tiff.height, height) for column in range(0, tiff.width, width)]
    count, most = len(corners) * planes, max_parts(tiff.width * tiff.height) * planes
    if count > most:
        raise ImageError("too_large", f"{count} segments are over the limit of {most}")
    starts = directory.values(TILE_OFFSETS if tiled else STRIP_OFFSETS, most=most)
    sizes = directory.values(TILE_BYTES if tiled else STRIP_BYTES, most=most)
    if not len(starts) == len(sizes) == count:
        raise ImageError("corrupt", f"{len(starts)} offsets and {len(sizes)} sizes for {count} segments")
    if min(starts) < HEADER_BYTES or min(sizes) < 1:
        raise ImageError("corrupt", "a TIFF with an empty segment")
    segments = []
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        plane, place = divmod(number, len(corners))
        row, column = corners[place]
        rows = height if tiled else min(height, tiff.height - row)
        channels = slice(plane, plane + 1) if planes > 1 else slice(0, tiff.samples)
        segments.append(Segment(start, size, row, column, rows, width, channels, height))
    return segments


def _segment_sides(tiff: TiffHeader, *, tiled: bool) -> tuple[int, int]:
    """Return the height and width of a strip or tile."""
    directory = tiff.directory
    if tiled:
        height, width = directory.value(TILE_HEIGHT, 0), directory.value(TILE_WIDTH, 0)
    else:
        height, width = min(directory.value(ROWS_PER_STRIP, tiff.height), tiff.height), tiff.width
    if height < 1 or width < 1 or height * width > max(SEGMENT_PIXELS, 4 * tiff.height * tiff.width):
        raise ImageError("corrupt", f"a TIFF of segments of {width}x{height} pixels")
    return height, width


def row_bytes(tiff: TiffHeader, columns: int, samples: int) -> int:
    """Return the size of a row of a segment, which starts with a whole byte."""
    return -(-columns * samples * tiff.bits // 8)


def plain_size(tiff: TiffHeader, segment: Segment) -> int:
    """Return the size of the pixels of a segment, uncompressed."""
    return row_bytes(tiff, segment.columns, segment.samples) * segment.rows
