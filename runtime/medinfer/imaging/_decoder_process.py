"""The child process in which the decoders of imagecodecs run: a crash or an endless loop ends it, and nothing else.

`_isolation.py` starts this file by its path, so it imports nothing of medinfer. A request is a JSON header and the
bytes of a codestream; the answer is a JSON header and the decoded samples.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

LENGTHS = struct.Struct("<II")  # of a header and of the bytes after it
FILLER = bytes.fromhex("aa55b6") * 4
PATTERNS = (0xFF, 0xAA, 0x55, 0x92, 0x49, 0x24)
STUFFED = b"\xff\0"
LOSSLESS_FRAME, HUFFMAN_TABLES = 0xC3, 0xC4
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
START_OF_TILE_PART, END_OF_CODESTREAM = b"\xff\x90", b"\xff\xd9"
PAGE = 4096
# Of a sample, by those to its left, above it, and to the left above it (ITU-T T.81, table H.1).
PREDICTORS: dict[int, Callable[[Any, Any, Any], Any]] = {
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + (above - corner >> 1),
    6: lambda left, above, corner: above + (left - corner >> 1),
    7: lambda left, above, corner: left + above >> 1,
}


class Damaged(ValueError):
    """A codestream that its decoder takes, and that nevertheless is not whole."""


def jpeg_lossless(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode lossless JPEG (SOF3), 2 to 16 bits."""
    samples = codecs.jpeg8_decode(data)
    complete = _is_complete(data, samples)
    if complete is False:
        raise Damaged("the scan does not hold the codes of its image")
    if complete is None:
        _check_end(codecs, data, samples, most=2 if _ends_in_one_bit(data) else 1)
    return samples


def jpeg_12bit(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode extended JPEG of 12 bits."""
    samples = codecs.jpeg8_decode(data)
    _check_end(codecs, data, samples, most=8)  # the last coefficients may be too small to show, or be clipped
    return samples


def jpeg2000(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode JPEG 2000, a codestream or a JP2 file."""
    _check_tile_parts(data)
    return codecs.jpeg2k_decode(data)


def htj2k(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode High-Throughput JPEG 2000."""
    _check_tile_parts(data)
    samples, other = codecs.htj2k_decode(data), codecs.jpeg2k_decode(data)
    # OpenJPH and OpenJPEG conceal damage, each in its own way; of lossy streams they may round differently.
    if samples.shape != other.shape or abs(samples.astype("i4") - other.astype("i4")).max() > 1:
        raise Damaged("its two decoders give different samples")
    return samples


def _is_complete(data: bytes, samples: Any) -> bool | None:
    """Tell whether the codes of the samples take the very bits of the scan; None if it is of a rare form.

    A sample differs from its prediction by a number of n bits, coded as the Huffman code of n and the n bits
    (ITU-T T.81, H.1.2).
    """
    planes = samples[..., None] if samples.ndim == 2 else samples
    tables: dict[int, dict[int, int]] = {}
    count, frame = planes.shape[2], b""
    for marker, body, end in _segments(data):
        if marker == HUFFMAN_TABLES:
            tables |= _code_lengths(body)
        elif marker == LOSSLESS_FRAME:
            frame = body
        elif marker == START_OF_SCAN[1]:
            selectors, predictor, scan = body[2 : 2 + 2 * count : 2], body[-3], data[end : _end_of_scan(data)]
            usual = body[0] == count and len(body) == 4 + 2 * count and body[-2:] == b"\0\0" and predictor in PREDICTORS
    stuffed, precision = scan.count(STUFFED), frame[0]
    # libjpeg-turbo wraps around where the higher predictors of 16 bits overflow.
    if not usual or scan.count(b"\xff") != stuffed or (precision == 16 and predictor > 3):  # or restart markers
        return None
    if frame[7::3] != b"\x11" * count or any(selector >> 4 not in tables for selector in selectors):
        return None
    bits = 0
    for plane, selector in enumerate(selectors):
        lengths = tables[selector >> 4]
        sizes = _sizes(planes[..., plane], precision, predictor)
        bits += sum(number * (lengths.get(size, 99) + size % 16) for size, number in sizes.items())
    padding = 8 * (len(scan) - stuffed) - bits
    return 0 <= padding < 8 and (scan[-1] or 0xFF) & (1 << padding) - 1 == (1 << padding) - 1  # padding is of ones


def _sizes(samples: Any, precision: int, predictor: int) -> dict[int, int]:
    """Return how often the difference of a sample from its prediction has each number of bits (H.1.2.1)."""
    import numpy as np

    values = samples.astype(np.uint16 if predictor < 5 else np.int32)  # differences are modulo 2 ** 16
    left, above, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    differences = values.copy()
    differences[0, 1:] -= values[0, :-1]
    differences[1:, 0] -= values[:-1, 0]
    differences[1:, 1:] -= PREDICTORS[predictor](left, above, corner)
    differences = differences.astype(np.uint16, copy=False)
    differences[0, 0] = (int(values[0, 0]) - (1 << precision - 1)) & 0xFFFF
    counts = np.bincount(_sizes_of_differences()[differences].ravel(), minlength=17)
    return {size: int(count) for size, count in enumerate(counts) if count}


@cache
def _sizes_of_differences() -> Any:
    """Return the number of bits of each difference, as of a signed number of 16 bits: uint8 (65536,)."""
    import numpy as np

    magnitudes = np.abs(np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32))
    return np.frexp(magnitudes)[1].astype(np.uint8)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the marker and the body of each segment up to the scan, and the offset after it."""
    offset = 2
    while True:
        marker, length = struct.unpack_from(">xBH", data, offset)
        end = offset + 2 + length
        yield marker, data[offset + 4 : end], end
        if marker == START_OF_SCAN[1]:
            return
        offset = end


def _code_lengths(body: bytes) -> dict[int, dict[int, int]]:
    """Return, for each table of a segment, the length of the code of each symbol."""
    tables = {}
    while body:
        counts, identity = body[1:17], body[0]
        lengths = [length for length, count in enumerate(counts, 1) for _ in range(count)]
        tables[identity] = dict(zip(body[17:], lengths, strict=False))
        body = body[17 + len(lengths) :]
    return tables


def _check_end(codecs: Any, data: bytes, samples: Any, *, most: int) -> None:
    """Check that a JPEG's scan ends where its image does.

    libjpeg-turbo fills up a scan that ends early and passes over bytes that are left, and imagecodecs drops its
    warnings. But if the scan is whole, more bytes after it change nothing, and another last byte changes the last
    samples; `most` is how many last bytes may have to be changed to show.
    """
    end = _end_of_scan(data)
    if (codecs.jpeg8_decode(data[:end] + FILLER + data[end:]) != samples).any():
        raise Damaged("the scan ends before its image does")
    for size, pattern in product(range(1, most + 1), PATTERNS):
        if (codecs.jpeg8_decode(_with_other_tail(data, end, size, pattern)) != samples).any():
            return
    if not _has_trivial_table(data):
        raise Damaged("the scan goes on after its image")


def _end_of_scan(data: bytes) -> int:
    end = data.rfind(END_OF_IMAGE)
    if data.rfind(START_OF_SCAN, 0, max(end, 0)) < 0:
        raise Damaged("the codestream has no end mark")
    while data[end - 1] == 0xFF:  # fill bytes
        end -= 1
    return end


def _ends_in_one_bit(data: bytes) -> bool:
    """Tell whether the last byte seems to hold one bit, and seven that pad it: another bit may decode to the same."""
    return data[_end_of_scan(data) - 1] | 0x80 == 0xFF


def _with_other_tail(data: bytes, end: int, size: int, pattern: int) -> bytes:
    """Return a JPEG whose last entropy-coded bytes, `size` of them, are XORed with a pattern."""
    plain = data[end - 2 * size : end].replace(STUFFED, b"\xff")  # without what is stuffed after 0xFF
    tail = plain[:-size] + bytes(byte ^ pattern for byte in plain[-size:])
    return data[: end - 2 * size] + tail.replace(b"\xff", STUFFED) + data[end:]


def _has_trivial_table(data: bytes) -> bool:
    """Tell whether a Huffman table has one code, as of a flat image: other bits may then decode to the same."""
    bodies = [body for marker, body, _ in _segments(data) if marker == HUFFMAN_TABLES]
    return any(len(lengths) == 1 for body in bodies for lengths in _code_lengths(body).values())


def _check_tile_parts(data: bytes) -> None:
    """Check that the tile-parts of JPEG 2000 follow one another up to the end mark (ISO/IEC 15444-1, A.4.2)."""
    offset = data.find(START_OF_TILE_PART, max(0, data.find(b"\xff\x4f\xff\x51")))
    while offset >= 0 and data[offset : offset + 2] == START_OF_TILE_PART:
        (length,) = struct.unpack_from(">I", data, offset + 6)
        if length == 0:  # the last one: it reaches to the end mark
            offset = data.rfind(END_OF_CODESTREAM)
            break
        offset += length
    if offset < 0 or data[offset : offset + 2] != END_OF_CODESTREAM:
        raise Damaged("a tile-part is incomplete")


def lzw(codecs: Any, data: bytes, options: dict[str, Any]) -> Any:
    """Decompress LZW segments that follow one another; `lengths` and `sizes` are theirs, and what they must become."""
    parts, start = [], 0
    for length, size in zip(options["lengths"], options["sizes"], strict=True):
        part = codecs.lzw_decode(data[start : start + length], out=size + 1)
        if len(part) != size:
            raise Damaged(f"a segment of {len(part)} bytes, where its pixels take {size}")
        parts.append(part)
        start += length
    return b"".join(parts)


def _plain(name: str) -> Callable[[Any, bytes, dict[str, Any]], Any]:
    """Return a codec that needs nothing but the bytes and its decoder's own options."""
    return lambda codecs, data, options: getattr(codecs, f"{name}_decode")(data, **options)


CODECS: dict[str, Callable[[Any, bytes, dict[str, Any]], Any]] = {
    "jpeg_lossless": jpeg_lossless,
    "jpeg_12bit": jpeg_12bit,
    "jpegls": _plain("jpegls"),
    "jpeg2000": jpeg2000,
    "htj2k": htj2k,
    "jpegxl": _plain("jpegxl"),
    "jpegxr": _plain("jpegxr"),
    "webp": _plain("webp"),
    "png": _plain("png"),
    "zstd": _plain("zstd"),
    "lzma": _plain("lzma"),
    "lzw": lzw,
    "ccittrle": _plain("ccittrle"),
    "ccittfax3": _plain("ccittfax3"),
    "ccittfax4": _plain("ccittfax4"),
}


def answer(
    codecs: Any, codec: str, data: bytes, options: dict[str, Any], ignored: Sequence[object] = ()
) -> tuple[dict[str, Any], bytes | memoryview]:
    """Return the header and the body of an answer; `ignored` grows with errors that a codec could not raise."""
    import numpy as np

    try:
        samples = CODECS[codec](codecs, data, options)
        if ignored:
            raise Damaged("the decoder met an error")
        array = np.frombuffer(samples, np.uint8) if isinstance(samples, bytes | bytearray) else np.asarray(samples)
        array = np.ascontiguousarray(array)
    except MemoryError:
        return {"error": "too_large"}, b""
    except Exception as error:  # noqa: BLE001 - decoders meet damaged data with whatever they like
        return {"error": "corrupt", "message": str(error)[:200]}, b""
    return {"dtype": array.dtype.str, "shape": array.shape}, array.data.cast("B") if array.size else b""


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a C library prints must not pass for an answer
    import imagecodecs

    ignored: list[object] = []
    sys.unraisablehook = ignored.append  # OpenJPH's errors arrive here, and nowhere else
    while header := requests.read(LENGTHS.size):
        size, count = LENGTHS.unpack(header)
        request = json.loads(requests.read(size))
        data = requests.read(count)
        _limit(request["seconds"], request["bytes"])
        ignored.clear()
        said, body = answer(imagecodecs, request["codec"], data, request["options"], ignored)
        text = json.dumps(said).encode("ascii")
        answers.write(LENGTHS.pack(len(text), len(body)) + text)
        answers.write(body)
        answers.flush()


def _limit(seconds: float, memory: int) -> None:
    """Have the kernel end this process after so many seconds of CPU time, and refuse it more memory."""
    try:
        import resource
    except ImportError:  # not POSIX: the parent's clock alone
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource, resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * PAGE
    except OSError:
        return
    _lower(resource, resource.RLIMIT_AS, now + memory)


def _lower(resource: Any, kind: int, limit: int) -> None:
    """Set a soft limit, within the hard one that this process was started with."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
