"""The samples of a TIFF: its strips or tiles, decoded and put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging._isolation import can_isolate, decode_isolated
from medinfer.imaging._jpeg import decode_jpeg
from medinfer.imaging.tiff._codecs import ADOBE_DEFLATE, DEFLATE, ISOLATED, JPEG, LZW, PLAIN, STORED, exact
from medinfer.imaging.tiff._header import RGB, TiffHeader
from medinfer.imaging.tiff._layout import PLANAR, Segment, plain_size, read_layout, row_bytes

FILL_ORDER, T4_OPTIONS, PREDICTOR, JPEG_TABLES = 266, 292, 317, 347
CCITT = (2, 3, 4)
PREDICTED = (LZW, ADOBE_DEFLATE, DEFLATE, 50000, 34925)
JPEG_TABLES_BYTES = 1 << 16
LZW_PIXELS = 1 << 13
"""Fewer are decoded sooner here than in a child process."""
EXPANSION, EXPANSION_BYTES = 2, 1 << 10
"""What compression may add at worst: LZW half of the size, the others less."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def read_samples(tiff: TiffHeader, data: bytes) -> npt.NDArray[Any]:
    """Return the samples as they are stored: uint8 or uint16 (H, W, samples); of 1, 2 and 4 bits their numbers.

    Raises:
        ImageError: `truncated`, `corrupt`, `unsupported_format`, `missing_extra`, `too_large`.
    """
    _check(tiff)
    dtype = np.uint16 if tiff.bits == 16 else np.uint8
    samples = np.empty((tiff.height, tiff.width, tiff.samples), dtype)
    segments = read_layout(tiff)
    encoded = [_encoded(tiff, segment, data) for segment in segments]
    if tiff.compression == STORED or tiff.compression in PLAIN:
        segments, plain = _joined(tiff, segments, _plain(tiff, segments, encoded))
        decoded = (_unpack(tiff, part, segment) for part, segment in zip(plain, segments, strict=True))
    else:
        decoded = (_decode(tiff, segment, part) for part, segment in zip(encoded, segments, strict=True))
    for segment, array in zip(segments, decoded, strict=True):
        target = samples[
            segment.row : segment.row + segment.rows, segment.column : segment.column + segment.columns, segment.plane
        ]
        target[...] = array[: target.shape[0], : target.shape[1]]
    return samples


def _plain(tiff: TiffHeader, segments: Sequence[Segment], encoded: Sequence[bytes]) -> list[bytes]:
    """Return stored segments as they are, and compressed ones decompressed."""
    if _is_lzw_of_imagecodecs(tiff):
        return _without_lzw(tiff, segments, encoded)
    decode = PLAIN.get(tiff.compression, exact)
    return [decode(part, plain_size(tiff, segment)) for part, segment in zip(encoded, segments, strict=True)]


def _joined(
    tiff: TiffHeader, segments: Sequence[Segment], plain: Sequence[bytes]
) -> tuple[list[Segment], Sequence[bytes]]:
    """Return all strips of a plane as one: a third of the time, for each call of numpy may wait for another thread."""
    first = segments[0]
    if len(segments) == 1 or first.columns != tiff.width:
        return list(segments), plain
    count = len(segments) * first.samples // tiff.samples
    starts = range(0, len(segments), count)
    rows = [sum(segment.rows for segment in segments[start : start + count]) for start in starts]
    joined = [segments[start]._replace(rows=height) for start, height in zip(starts, rows, strict=True)]
    return joined, [b"".join(plain[start : start + count]) for start in starts]


def _encoded(tiff: TiffHeader, segment: Segment, data: bytes) -> bytes:
    """Return the bytes of a segment."""
    encoded = data[segment.start : segment.start + segment.size]
    if len(encoded) < segment.size:
        raise ImageError("truncated", f"the TIFF ends early, after {len(data)} bytes")
    most = EXPANSION * plain_size(tiff, segment) + EXPANSION_BYTES
    if tiff.compression in PLAIN and segment.size > most:
        raise ImageError("corrupt", f"a segment of {segment.size} compressed bytes is over the limit of {most}")
    reverse = tiff.directory.value(FILL_ORDER, 1) == 2 and tiff.compression != JPEG
    return encoded.translate(REVERSED) if reverse else encoded


def _is_lzw_of_imagecodecs(tiff: TiffHeader) -> bool:
    pixels = tiff.height * tiff.width * tiff.samples
    return tiff.compression == LZW and pixels >= LZW_PIXELS and can_isolate()


def _without_lzw(tiff: TiffHeader, segments: Sequence[Segment], encoded: Sequence[bytes]) -> list[bytes]:
    """Decompress all LZW segments by one request to the child process: each for itself would cost more than Python."""
    sizes = [plain_size(tiff, segment) for segment in segments]
    ends = list(accumulate(sizes))
    options = {"lengths": list(map(len, encoded)), "sizes": sizes}
    plain = decode_isolated("lzw", b"".join(encoded), pixels=ends[-1], extra="tiff", **options).tobytes()
    return [plain[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _check(tiff: TiffHeader) -> None:
    predictor = tiff.directory.value(PREDICTOR, 1)
    if tiff.compression != STORED and tiff.compression not in PLAIN and tiff.compression not in (JPEG, *ISOLATED):
        raise ImageError("unsupported_format", f"a TIFF of compression {tiff.compression}")
    if predictor not in (1, 2) or (predictor == 2 and tiff.compression not in (JPEG, *PREDICTED)):
        raise ImageError("unsupported_format", f"a TIFF with predictor {predictor}, compression {tiff.compression}")
    if predictor == 2 and tiff.bits < 8:
        raise ImageError("unsupported_format", f"a TIFF with predictor 2 and {tiff.bits}-bit samples")
    for tag in (PLANAR, FILL_ORDER):
        if tiff.directory.value(tag, 1) not in (1, 2):
            raise ImageError("corrupt", f"a TIFF whose tag {tag} is {tiff.directory.value(tag, 1)}, not 1 or 2")


def _decode(tiff: TiffHeader, segment: Segment, data: bytes) -> npt.NDArray[Any]:
    """Return the samples of a segment, (rows, columns, samples)."""
    if tiff.compression == JPEG:
        return _shaped(_jpeg(tiff, segment, data), segment)
    isolated = ISOLATED[tiff.compression]
    pixels = segment.rows * segment.columns
    options = {"height": segment.rows, "width": segment.columns} if tiff.compression in CCITT else {}
    if isolated.codec == "ccittfax3":
        options["t4options"] = tiff.directory.value(T4_OPTIONS, 0)
    decoded = decode_isolated(isolated.codec, data, pixels=pixels, extra="tiff", **options)
    if isolated.plain:
        return _unpack(tiff, exact(decoded.tobytes(), plain_size(tiff, segment)), segment)
    bits = 1 if tiff.compression in CCITT else 8 * decoded.dtype.itemsize
    if bits != tiff.bits or decoded.dtype.kind != "u":
        raise ImageError("corrupt", f"a segment of {decoded.dtype} samples in a TIFF of {tiff.bits} bits")
    return _shaped(decoded, segment)


def _jpeg(tiff: TiffHeader, segment: Segment, data: bytes) -> npt.NDArray[Any]:
    from medinfer.imaging._headers import read_header

    tables = tiff.directory.raw(JPEG_TABLES, most=JPEG_TABLES_BYTES)
    stream = tables[:-2] + data[2:] if tables else data
    header = read_header(stream)
    if header.format != "jpeg" or header.bits != 8 or tiff.bits != 8:
        raise ImageError("unsupported_dtype", f"a TIFF of JPEG segments of {header.bits} bits")
    samples = segment.samples
    if (header.width, header.channels) != (segment.columns, samples) or header.height > segment.full_rows:
        raise ImageError("corrupt", f"a JPEG of {header.width}x{header.height} pixels does not fit its segment")
    if samples == 1:
        return decode_jpeg(stream, colors="gray")[..., None]
    if samples == 4:
        return decode_jpeg(stream, colors="cmyk")
    return decode_jpeg(stream, colors="rgb", rgb_components=tiff.photometric == RGB)


def _shaped(decoded: npt.NDArray[Any], segment: Segment) -> npt.NDArray[Any]:
    array = decoded[..., None] if decoded.ndim == 2 else decoded
    heights = (segment.rows, segment.full_rows)
    if array.ndim != 3 or array.shape[0] not in heights or array.shape[1:] != (segment.columns, segment.samples):
        raise ImageError("corrupt", f"a segment of shape {decoded.shape} in place of {segment.columns}x{segment.rows}")
    return array


def _unpack(tiff: TiffHeader, plain: bytes, segment: Segment) -> npt.NDArray[Any]:
    samples = segment.samples
    if tiff.bits == 16:
        flat: npt.NDArray[Any] = np.frombuffer(plain, tiff.directory.order + "u2").astype(np.uint16)
    elif tiff.bits == 8:
        flat = np.frombuffer(plain, np.uint8)
    else:
        flat = _numbers(plain, tiff.bits, row_bytes(tiff, segment.columns, samples), segment.columns * samples)
    array = flat.reshape(-1, segment.columns, samples)
    if tiff.directory.value(PREDICTOR, 1) == 2 and tiff.compression in PREDICTED:
        array = np.cumsum(array, axis=1, dtype=array.dtype)
    return array


def _numbers(plain: bytes, bits: int, row_bytes: int, count: int) -> npt.NDArray[np.uint8]:
    """Return numbers of 1, 2 or 4 bits, each row of which starts with a byte."""
    rows = np.frombuffer(plain, np.uint8).reshape(-1, row_bytes, 1)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    numbers = rows >> shifts & np.uint8((1 << bits) - 1)
    return numbers.reshape(len(rows), -1)[:, :count]
