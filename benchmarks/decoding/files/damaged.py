"""Whole files whose pixel data are known, and damage to nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.encoders import RLELosslessEncoder

from benchmarks.decoding import images
from benchmarks.decoding.files.dicom import ROOT, describe, save
from benchmarks.decoding.files.tiff import Layout, write_tiff

Pixels = npt.NDArray[Any]
KINDS = ("1 bit", "16 random bytes", "512 random bytes", "512 zero bytes", "cut")
CUT = (0.3, 0.95)


class Sample(NamedTuple):
    """A whole file, where its pixel data are, and a function that cuts them at a share of their length.

    A cut file ends with the end mark of its format, if it has one.
    """

    data: bytes
    spans: tuple[tuple[int, int], ...]
    cut: Callable[[float], bytes]


def damage(random: Random, sample: Sample, kind: str) -> bytes:
    """Return a file with damage of a kind within its pixel data."""
    if kind == "cut":
        return sample.cut(random.uniform(*CUT))
    start, end = random.choices(sample.spans, [end - start for start, end in sample.spans])[0]
    changed = bytearray(sample.data)
    if kind == "1 bit":
        changed[random.randrange(start, end)] ^= 1 << random.randrange(8)
        return bytes(changed)
    size = min(int(kind.split()[0]), end - start)
    at = random.randrange(start, end - size + 1)
    changed[at : at + size] = random.randbytes(size) if "random" in kind else bytes(size)
    return bytes(changed)


def jpeg(random: Random) -> Sample:
    """Return a real JPEG, every other time one that is written again with other options."""
    data = images.jpeg(random)
    if data is None or random.random() < 0.5:
        options: dict[str, Any] = {"quality": random.randrange(50, 98), "subsampling": random.choice((0, 1, 2))}
        if random.random() < 0.3:
            options["progressive"] = True
        if random.random() < 0.2:
            options["restart_marker_rows"] = random.choice((1, 2, 4))
        data = _by_pillow(images.image(random, gray=random.random() < 0.3), "JPEG", **options)
    spans = tuple(scans(data))
    return Sample(data, spans, lambda share: data[: _at(spans, share)] + b"\xff\xd9")


def scans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the entropy-coded bytes of each scan of a JPEG start and end."""
    offset = 2
    while data[offset + 1] != 0xD9:
        length = struct.unpack_from(">H", data, offset + 2)[0]
        offset, marker = offset + 2 + length, data[offset + 1]
        if marker == 0xDA:
            start = offset
            while data[offset] != 0xFF or data[offset + 1] == 0 or 0xD0 <= data[offset + 1] <= 0xD7:
                offset += 1
            yield start, offset


def png(random: Random) -> Sample:
    """Return a PNG; its pixel data are the bodies of its IDAT chunks."""
    data = _by_pillow(images.image(random, gray=random.random() < 0.3), "PNG")
    spans, offset = [], 8
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        if kind == b"IDAT":
            spans.append((offset + 8, offset + 8 + length))
        offset += 12 + length
    return Sample(data, tuple(spans), lambda share: data[: _at(spans, share)] + data[-12:])


def png_with_right_checksums(random: Random) -> Sample:
    """Return a PNG whose damage is hidden from the checksum of its chunk; see `with_right_checksum`."""
    pixels = images.image(random)
    body = zlib.compress(b"".join(b"\1" + np.diff(row, axis=0, prepend=0).astype(np.uint8).tobytes() for row in pixels))
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0))
    start = 8 + len(head) + 8

    def file(part: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", part) + _chunk(b"IEND", b"")

    return Sample(file(body), ((start, start + len(body)),), lambda share: file(body[: int(share * len(body))]))


def with_right_checksum(data: bytes) -> bytes:
    """Return a PNG of three chunks with the checksum of its IDAT chunk made to fit."""
    (length,) = struct.unpack_from(">I", data, 33)
    end = 41 + length
    return data[:end] + struct.pack(">I", zlib.crc32(data[37:end])) + data[end + 4 :]


def webp(*, lossless: bool) -> Callable[[Random], Sample]:
    """Return a maker of WebP files; their pixel data are all after the header of the only chunk."""

    def make(random: Random) -> Sample:
        data = _by_pillow(images.image(random), "WEBP", lossless=lossless, quality=random.randrange(60, 95))
        start = 12 + 8 + (5 if lossless else 10)
        return Sample(data, ((start, len(data)),), lambda share: data[: _at([(start, len(data))], share)])

    return make


def tiff(compression: str, *, predictor: int = 1) -> Callable[[Random], Sample]:
    """Return a maker of TIFF files of a compression, in strips or tiles."""

    def make(random: Random) -> Sample:
        pixels = images.image(random, gray=random.random() < 0.3)
        parts: dict[str, Any] = random.choice(({}, {"rows": 16}, {"rows": 64}, {"tile": (64, 64)}))
        photometric = 6 if compression == "jpeg" and pixels.ndim == 3 else None
        layout = Layout(compression, predictor=predictor, photometric=photometric, **parts)
        data, start = write_tiff(pixels, layout)
        spans = ((start, len(data)),)
        return Sample(data, spans, lambda share: data[: _at(spans, share)])

    return make


CODESTREAMS: dict[str, tuple[str, Callable[[Pixels], bytes], bytes]] = {
    "JPEG baseline": (f"{ROOT}.4.50", lambda pixels: imagecodecs.jpeg8_encode(pixels, level=90), b"\xff\xd9"),
    "JPEG lossless": (
        f"{ROOT}.4.70",
        lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1),
        b"\xff\xd9",
    ),
    "JPEG-LS": (f"{ROOT}.4.80", lambda pixels: imagecodecs.jpegls_encode(pixels), b"\xff\xd9"),
    "JPEG 2000": (
        f"{ROOT}.4.90",
        lambda x: imagecodecs.jpeg2k_encode(x, reversible=True, codecformat="j2k"),
        b"\xff\xd9",
    ),
}


def dicom(name: str) -> Callable[[Random], Sample]:
    """Return a maker of DICOM files: compressed, in run lengths, or native."""

    def make(random: Random) -> Sample:
        pixels = images.image(random, gray=True)
        if name not in ("JPEG baseline", "JPEG lossless") and random.random() < 0.5:
            pixels = pixels.astype(np.uint16) * 16 + np.uint16(random.randrange(16))
        dataset = describe(pixels)
        if name == "native":
            data = save(dataset, f"{ROOT}.1", pixels.tobytes())
            spans = ((len(data) - pixels.nbytes, len(data)),)
            return Sample(data, spans, lambda share: data[: _at(spans, share)])
        syntax, stream, end = _codestream(name, pixels, dataset)
        start = {"RLE": 64}.get(name) or _entropy_start(stream)
        data = save(dataset, syntax, stream, encapsulated=True)
        place = data.index(stream)

        def cut(share: float) -> bytes:
            return save(dataset, syntax, stream[: start + int(share * (len(stream) - start))] + end, encapsulated=True)

        return Sample(data, ((place + start, place + len(stream) - len(end)),), cut)

    return make


def _codestream(name: str, pixels: Pixels, dataset: Dataset) -> tuple[str, bytes, bytes]:
    if name != "RLE":
        syntax, encode, end = CODESTREAMS[name]
        return syntax, encode(pixels), end
    parts = {"rows": dataset.Rows, "columns": dataset.Columns, "samples_per_pixel": 1, "number_of_frames": 1}
    parts |= {"bits_allocated": dataset.BitsAllocated, "bits_stored": dataset.BitsStored, "pixel_representation": 0}
    parts |= {"photometric_interpretation": "MONOCHROME2"}
    return f"{ROOT}.5", RLELosslessEncoder.encode(pixels, encoding_plugin="pydicom", **parts), b""


def _entropy_start(stream: bytes) -> int:
    """Return where the entropy-coded bytes of a codestream start: after its (first) SOS or SOD marker."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        return stream.index(b"\xff\x93") + 2
    place = stream.index(b"\xff\xda")
    return place + 2 + struct.unpack_from(">H", stream, place + 2)[0]


def _by_pillow(pixels: Pixels, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _at(spans: Any, share: float) -> int:
    """Return the place at a share of the bytes of all spans."""
    left = int(share * sum(end - start for start, end in spans))
    for start, end in spans:
        if left < end - start:
            return start + left
        left -= end - start
    return spans[-1][1]
