"""Files made by hand, where no encoder at hand writes what is wanted: PNG chunks, TIFF tags, DICOM elements."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

Pixels = npt.NDArray[Any]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Where Adam7 starts and how far it steps: rows, columns.
PASSES = [((0, 8), (0, 8)), ((0, 8), (4, 8)), ((4, 8), (0, 4)), ((0, 4), (2, 4)), ((2, 4), (0, 2)), ((0, 2), (1, 2))]
PASSES += [((1, 2), (0, 1))]


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> Pixels:
    """Return pixels that compress neither to nothing nor not at all: a ramp with noise on it."""
    top = np.iinfo(dtype).max
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = ((rows + 2 * columns) / (height + 2 * width) * 0.8 * top)[..., None]
    grain = np.random.default_rng([height, width, channels]).uniform(0, 0.2 * top, (height, width, channels))
    pixels = (ramp + grain).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


def encode(image: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    """Write with Pillow; `orientation` stands for an EXIF block."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if "orientation" in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop("orientation")
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with the right length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks (kind, body) of a PNG."""
    chunks, offset = [], len(PNG_MAGIC)
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        chunks.append((kind, data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG of some chunks."""
    return PNG_MAGIC + b"".join(png_chunk(kind, body) for kind, body in chunks)


def sized_png(width: int, height: int, bits: int = 8, color: int = 2) -> bytes:
    """Return a PNG that promises a size, and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])


def interlaced_png(pixels: Pixels) -> bytes:
    """Return an 8-bit PNG in seven passes (Adam7)."""
    height, width = pixels.shape[:2]
    rows = [
        b"\0" + row.tobytes()
        for (top, down), (left, right) in PASSES
        if width > left  # a pass without columns has no rows
        for row in pixels[top::down, left::right]
    ]
    color = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 1)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")])


def bmp_rle(pixels: Pixels) -> bytes:
    """Return a gray BMP of run lengths."""
    height, width = pixels.shape
    lines = [b"".join(bytes([1, level]) for level in row) + b"\0\0" for row in pixels[::-1]]
    body = b"".join(lines) + b"\0\1"
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + head + palette + body


def tiff(pixels: Pixels, *, order: str = "<", tile: int = 0, **tags: int) -> bytes:
    """Return an uncompressed TIFF in one strip, or in tiles of a size; `t317=2` sets a tag that is one number."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = planes.shape
    stored = planes.astype(planes.dtype.newbyteorder(order))
    parts = _tiles(stored, tile) if tile else [stored.tobytes()]
    place, size = (324, 325) if tile else (273, 279)
    shape = {322: [tile], 323: [tile]} if tile else {278: [height]}
    entries = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [1], **shape}
    entries |= {262: [2 if channels >= 3 else 1], 277: [channels], 339: [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]]}
    entries |= {place: [0] * len(parts), size: [len(part) for part in parts]}
    entries |= {int(name[1:]): [value] for name, value in tags.items()}
    directory = 8 + 2 + 12 * len(entries) + 4
    where = directory + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    for number, part in enumerate(parts):
        entries[place][number], where = where, where + len(part)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + _directory(entries, order, directory) + b"".join(parts)


def _tiles(pixels: Pixels, size: int) -> list[bytes]:
    height, width = pixels.shape[:2]
    whole = np.pad(pixels, ((0, -height % size), (0, -width % size), (0, 0)))
    return [
        np.ascontiguousarray(whole[top : top + size, left : left + size]).tobytes()
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]


def _directory(entries: dict[int, list[int]], order: str, beyond: int) -> bytes:
    """Return a directory of 32-bit values, and after it, from the offset `beyond` on, those that do not fit."""
    directory, rest = struct.pack(order + "H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, rest = struct.pack(order + "I", beyond + len(rest)), rest + packed
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    return directory + b"\0\0\0\0" + rest


def dicom(
    pixels: Pixels,
    *,
    syntax: str = ExplicitVRLittleEndian,
    fragment: bytes | None = None,
    encapsulated: bytes | None = None,
    empty: Collection[str] = (),
    **tags: Any,
) -> bytes:
    """Return a DICOM file: tags by keyword, those of None left out, those in `empty` there without a value.

    `fragment` is the codestream that stands for the pixels, or `encapsulated` all of their element.
    """
    syntax = UID(syntax)
    dataset = Dataset()
    color = pixels.ndim > 2 and pixels.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = tags.get("BitsStored", dataset.BitsStored) - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if fragment is not None:
        encapsulated = encapsulate([fragment])
    native = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    dataset.PixelData = (native + b"\0" * (len(native) % 2)) if encapsulated is None else encapsulated
    for name, value in tags.items():
        if value is not None:
            setattr(dataset, name, value)
        elif name in dataset:
            delattr(dataset, name)
    for name in empty:
        setattr(dataset, name, None)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 and encapsulated is None else "OB"
        dataset["PixelData"].is_undefined_length = encapsulated is not None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def start_of_data_set(data: bytes) -> int:
    """Return where the elements of a DICOM file start, after its file meta information."""
    (length,) = struct.unpack_from("<I", data, 140)
    return 144 + int(length)
