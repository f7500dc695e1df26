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
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

LENGTHS = struct.Struct("<II")  # of a header and of the bytes after it
TAIL_SAMPLES, TAIL_ROWS = 8, 32
PATTERNS = (0xFF, 0xAA, 0x55, 0x92, 0x49, 0x24)
STUFFED = b"\xff\0"
HUFFMAN_TABLES = 0xC4
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
START_OF_TILE_PART, END_OF_CODESTREAM = b"\xff\x90", b"\xff\xd9"
PAGE = 4096


class Damaged(ValueError):
    """A codestream that its decoder takes, and that nevertheless is not whole."""


def jpeg_lossless(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode lossless JPEG (SOF3), 2 to 16 bits."""
    samples = codecs.jpeg8_decode(data)
    # A sample takes at least one bit, so the last byte holds at most 8 of them.
    _check_end(codecs, data, samples, last=TAIL_SAMPLES, sizes=(1, 2))
    return samples


def jpeg_12bit(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode extended JPEG of 12 bits."""
    samples = codecs.jpeg8_decode(data)
    # The last coefficients may be too small to show, or be clipped: then more bytes are changed.
    _check_end(codecs, data, samples, last=TAIL_ROWS * (samples.size // len(samples)), sizes=(1, 2, 4, 8))
    return samples


def jpeg2000(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode JPEG 2000, a codestream or a JP2 file."""
    _check_tile_parts(data)
    return codecs.jpeg2k_decode(data)


def htj2k(codecs: Any, data: bytes, _: dict[str, Any]) -> Any:
    """Decode High-Throughput JPEG 2000."""
    _check_tile_parts(data)
    return codecs.htj2k_decode(data)


def _check_end(codecs: Any, data: bytes, samples: Any, *, last: int, sizes: tuple[int, ...]) -> None:
    """Check that a JPEG's scan ends where its image does.

    libjpeg-turbo fills up a scan that ends early and passes over bytes that are left, and imagecodecs drops its
    warnings. But if the scan is whole, another last byte gives other last samples, and changes no earlier ones.
    """
    for size, pattern in product(sizes, PATTERNS):
        first = _first_change(samples, codecs.jpeg8_decode(_with_other_tail(data, size, pattern)))
        if first < samples.size:
            if first < samples.size - size * last:
                raise Damaged("the scan ends before its image does")
            return
    if not _has_trivial_table(data):
        raise Damaged("the scan goes on after its image")


def _with_other_tail(data: bytes, size: int, pattern: int) -> bytes:
    """Return a JPEG whose last entropy-coded bytes, `size` of them, are XORed with a pattern."""
    end = data.rfind(END_OF_IMAGE)
    if data.rfind(START_OF_SCAN, 0, max(end, 0)) < 0:
        raise Damaged("the codestream has no end mark")
    while data[end - 1] == 0xFF:  # fill bytes
        end -= 1
    plain = data[end - 2 * size : end].replace(STUFFED, b"\xff")  # without what is stuffed after 0xFF
    tail = plain[:-size] + bytes(byte ^ pattern for byte in plain[-size:])
    return data[: end - 2 * size] + tail.replace(b"\xff", STUFFED) + data[end:]


def _first_change(samples: Any, other: Any) -> int:
    """Return the index, in scan order, of the first sample in which two arrays differ; their size if none does."""
    changed = (samples != other).ravel()
    return int(changed.argmax()) if changed.any() else int(samples.size)


def _has_trivial_table(data: bytes) -> bool:
    """Tell whether a Huffman table has one code, as of a flat image: other bits may then decode to the same."""
    offset = 2
    while data[offset : offset + 2] != START_OF_SCAN:
        (length,) = struct.unpack_from(">H", data, offset + 2)
        table, end = offset + 4, offset + 2 + length
        while data[offset + 1] == HUFFMAN_TABLES and table < end:
            count = sum(data[table + 1 : table + 17])
            if count == 1:
                return True
            table += 17 + count
        offset = end
    return False


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
