"""Damage that keeps a file's structure, so that what is wrong is met further in than its first check.

Each function returns a file with one thing wrong. It may raise StructureError, IndexError, ValueError, struct.error or
zlib.error where the file is no longer one of its format: then damage to the bytes stands in.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from random import Random

from tests.faults.files import png_chunk, png_chunks, png_of
from tests.faults.fuzz.mutations import DAMAGES, number

UNFIT = (IndexError, ValueError, OverflowError, struct.error, zlib.error)
LONG_VALUES = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR", b"OV", b"SV", b"UV")
SHORT_VALUES = (b"US", b"SS", b"UL", b"SL", b"DS", b"IS", b"CS", b"FD", b"FL", b"LO", b"UI", b"AT", b"PN", b"DA")
TEXTS = (b"", b"0", b"-1", b"1e400", b"nan", b"65535", b"99999999999999999999", b"1\\2\\3", b"0.0001", b"2147483648")
SYNTAXES = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.5")
SYNTAXES += tuple(b"1.2.840.10008.1.2.4." + end for end in (b"50", b"51", b"57", b"70", b"80", b"90", b"91", b"102"))
SHADES = (b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"PALETTE COLOR", b"YBR_ICT", b"CMYK")
PREAMBLE = 132
COMPRESSED = re.compile(rb"\xe0\x7f\x10\x00O[BW]\0\0\xff\xff\xff\xff")


def _damaged(random: Random, part: bytes) -> bytes:
    changed = bytearray(part)
    random.choice(DAMAGES)(random, changed)
    return bytes(changed)


def png(random: Random, data: bytes) -> bytes:
    """A chunk changed with its checksum set right, lost, repeated, moved, or longer than it is; or other pixels."""
    chunks = png_chunks(data)
    which = random.randrange(len(chunks))
    kind, body = chunks[which]
    match random.randrange(6):
        case 0:
            chunks[which] = kind, _damaged(random, body)
        case 1:
            chunks.insert(random.randrange(len(chunks)), chunks.pop(which))
        case 2:
            chunks.insert(which, chunks[which]) if random.random() < 0.5 else chunks.pop(which)
        case 3:
            chunks[0] = b"IHDR", _header_field(random, chunks[0][1])
        case 4:
            pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
            rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
            return png_of([*rest[:-1], (b"IDAT", zlib.compress(_damaged(random, pixels))), *rest[-1:]])
        case _:
            lie = struct.pack(">I", number(random, 32))
            start = data.index(png_chunk(kind, body))
            return data[:start] + lie + data[start + 4 :]
    return png_of(chunks)


def _header_field(random: Random, header: bytes) -> bytes:
    fields = list(struct.unpack(">IIBBBBB", header))
    which = random.randrange(len(fields))
    fields[which] = number(random, 16) if which < 2 else random.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
    return struct.pack(">IIBBBBB", *fields)


def jpeg(random: Random, data: bytes) -> bytes:
    """A segment with a wrong length, a wrong byte, lost, or repeated."""
    segments = []  # (start, end) of each, up to the scan
    offset = 2
    while data[offset + 1] != 0xDA:
        end = offset + 2 + struct.unpack_from(">H", data, offset + 2)[0]
        segments.append((offset, end))
        offset = end
    start, end = random.choice(segments)
    match random.randrange(4):
        case 0:
            return data[: start + 2] + struct.pack(">H", number(random, 16)) + data[start + 4 :]
        case 1:
            return data[: start + 4] + _damaged(random, data[start + 4 : end]) + data[end:]
        case 2:
            return data[:start] + data[end:]
        case _:
            place = random.choice(segments)[0]
            return data[:place] + data[start:end] + data[place:]


def tiff(random: Random, data: bytes) -> bytes:
    """A tag of the directory with another type, count or value; or another tag."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    entry = directory + 2 + 12 * random.randrange(count)
    changed = bytearray(data)
    match random.randrange(5):
        case 0:
            struct.pack_into(order + "H", changed, entry, random.choice((254, 256, 258, 262, 266, 284, 317, 338, 339)))
        case 1:
            struct.pack_into(order + "H", changed, entry + 2, random.randrange(14))
        case 2:
            struct.pack_into(order + "I", changed, entry + 4, number(random, 32))
        case 3:
            struct.pack_into(order + "H", changed, entry + 8, random.randrange(12))  # what most tags hold is small
        case _:
            struct.pack_into(order + "I", changed, entry + 8, number(random, 32))
    return bytes(changed)


def webp(random: Random, data: bytes) -> bytes:
    """A chunk with a wrong length, a wrong body, lost or repeated."""
    chunks, offset = [], 12
    while offset + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, offset + 4)
        chunks.append(data[offset : offset + 8 + length + length % 2])
        offset += len(chunks[-1])
    which = random.randrange(len(chunks))
    chunk = chunks[which]
    match random.randrange(4):
        case 0:
            chunks[which] = chunk[:4] + struct.pack("<I", number(random, 32)) + chunk[8:]
        case 1:
            chunks[which] = chunk[:8] + _damaged(random, chunk[8:])
        case 2:
            chunks.insert(random.randrange(len(chunks)), chunks.pop(which))
        case _:
            chunks.insert(which, chunk)
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bmp(random: Random, data: bytes) -> bytes:
    """A number of the header replaced."""
    changed = bytearray(data)
    place, kind = random.choice(
        [(10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (46, "I")]
    )
    value = number(random, 16) if kind == "i" else number(random, 8 * struct.calcsize("<" + kind))
    small = random.randrange(40)
    struct.pack_into("<" + kind, changed, place, random.choice((value, small)))
    return bytes(changed)


def dicom(random: Random, data: bytes) -> bytes:
    """An element with another value, length or type, lost or repeated, also within what is deflated; a codestream."""
    compressed = COMPRESSED.search(data)
    if compressed and random.random() < 0.5:
        return _codestream(random, data, compressed.end())
    meta = PREAMBLE + 12 + struct.unpack_from("<I", data, PREAMBLE + 8)[0]
    if b"1.2.840.10008.1.2.1.99" in data[:meta]:
        pump = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        inside = _element(random, zlib.decompress(data[meta:], -zlib.MAX_WBITS), 0)
        return data[:meta] + pump.compress(inside) + pump.flush()
    return _element(random, data, PREAMBLE if random.random() < 0.2 else meta)


def _codestream(random: Random, data: bytes, start: int) -> bytes:
    """Damage the first fragment of compressed pixels, and tell its new length."""
    offset = start + 8 + struct.unpack_from("<I", data, start + 4)[0]  # behind the table of offsets
    (length,) = struct.unpack_from("<I", data, offset + 4)
    body = _damaged(random, data[offset + 8 : offset + 8 + length])
    body += bytes(len(body) % 2)
    return data[: offset + 4] + struct.pack("<I", len(body)) + body + data[offset + 8 + length :]


def _element(random: Random, data: bytes, offset: int) -> bytes:
    """Damage one of the elements that follow from an offset on, in explicit little-endian."""
    start, head, length = random.choice(_elements(data, offset))
    body = start + head
    value = data[body : body + length]
    match random.randrange(5):
        case 0:
            kind = random.choice(LONG_VALUES + SHORT_VALUES)
            return data[: start + 4] + kind + data[start + 6 :]
        case 1:
            size = 4 if head == 12 else 2
            lie = number(random, 8 * size).to_bytes(size, "little")
            return data[: body - size] + lie + data[body:]
        case 2:
            return data[:start] + data[body + length :] * random.choice((0, 1))
        case 3:
            return data[:start] + data[start : body + length] * 2 + data[body + length :]
        case _:
            return _with_value(data, start, head, length, _another(random, value))


def _elements(data: bytes, offset: int) -> list[tuple[int, int, int]]:
    """Return (start, size of the head, length) of each, as far as lengths can be followed."""
    found = []
    while offset + 8 <= len(data):
        if data[offset + 4 : offset + 6] in LONG_VALUES:
            head, (length,) = 12, struct.unpack_from("<I", data, offset + 8)
        else:
            head, (length,) = 8, struct.unpack_from("<H", data, offset + 6)
        if length > len(data):
            break
        found.append((offset, head, length))
        offset += head + length
    return found


def _another(random: Random, value: bytes) -> bytes:
    """Return another value: for a number, numbers; for text, texts, among them the words of the standard."""
    if len(value) in (2, 4) and random.random() < 0.8:
        small = random.choice((0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 64))
        return random.choice((small, number(random, 8 * len(value)))).to_bytes(len(value), "little")
    if random.random() < 0.3:
        return _damaged(random, value)
    return random.choice(TEXTS + SHADES + SYNTAXES)


def _with_value(data: bytes, start: int, head: int, length: int, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    size = len(value).to_bytes(4 if head == 12 else 2, "little")
    body = start + head
    return data[: body - len(size)] + size + value + data[body + length :]


STRUCTURED: dict[str, Callable[[Random, bytes], bytes]] = {
    "png": png,
    "jpeg": jpeg,
    "tiff": tiff,
    "webp": webp,
    "bmp": bmp,
    "dicom": dicom,
}
