"""Mutations that know the structure of TIFF, BMP and DICOM files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import NamedTuple

from tests.faults.fuzz.mutations import DAMAGES, damage, number

from benchmarks.decoding.layouts import bmp, dicom, tiff

UNFIT = (IndexError, StopIteration, ValueError, OverflowError, struct.error, zlib.error)
ORDER = ("tiff", "dicom", "tiff", "dicom", "bmp")
TIFF_TAGS = (254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325)
TIFF_TAGS += (330, 338, 339, 347, 529, 530, 532, 32997, 34675)
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR", b"OV", b"SV", b"UV")
SHORT = (b"US", b"SS", b"UL", b"SL", b"DS", b"IS", b"CS", b"FD", b"FL", b"LO", b"UI", b"AT", b"PN", b"DA")
SHADES = (b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"PALETTE COLOR", b"YBR_RCT", b"CMYK")
ROOT = b"1.2.840.10008.1.2"
UIDS = (
    ROOT,
    *(ROOT + end for end in (b".1", b".2", b".1.99", b".5", b".4.50", b".4.51", b".4.57", b".4.70", b".4.80")),
)
UIDS += tuple(ROOT + end for end in (b".4.81", b".4.90", b".4.91", b".4.201", b".4.100"))
TEXTS = (b"", b"0", b"1", b"2", b"-1", b"1e400", b"nan", b"0.5", b"1\\2\\3", b"99999999999", b"LINEAR", b"SIGMOID")


class Mutant(NamedTuple):
    """A mutated file of a format, its layout, and the intact file that it was."""

    kind: str
    layout: str
    data: bytes
    intact: bytes


@cache
def samples(kind: str) -> tuple[tuple[str, bytes], ...]:
    """Return whole files of a format, one of each layout."""
    layouts = {"tiff": tiff, "bmp": bmp, "dicom": dicom}[kind].layouts()
    made = ((layout, make(Random(f"{layout} {place}"))) for place, (layout, make) in enumerate(layouts))
    return tuple((layout, case.data) for layout, case in made if len(case.data) < 50_000)


def mutant(seed: int, index: int) -> Mutant:
    """Return a mutation; the same for the same seed and number."""
    random = Random(f"mutant {seed} {index}")
    kind = ORDER[index % len(ORDER)]
    layout, intact = random.choice(samples(kind))
    data = intact
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = _mutated(random, kind, data)
    return Mutant(kind, layout, data, intact)


def _mutated(random: Random, kind: str, data: bytes) -> bytes:
    """Mutate the structure, or, every fourth time and where there is none left, the bytes."""
    if random.random() < 0.75:
        try:
            return MUTATIONS[kind](random, data)
        except UNFIT:
            pass
    return damage(random, data, random.choice(samples(kind))[1])


def _damaged(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    random.choice(DAMAGES)(random, changed)
    return bytes(changed)


def _near(random: Random, value: int, bits: int) -> int:
    """Return a number close to another, a small one, or one at the edge."""
    near = random.choice((value + 1, value - 1, 2 * value, value // 2, random.randrange(20), number(random, bits)))
    return near & ((1 << bits) - 1)


class _Entry(NamedTuple):
    """Where a tag of a directory is, and where its values are."""

    at: int
    tag: int
    kind: int
    count: int
    values: int


def mutate_tiff(random: Random, data: bytes) -> bytes:
    """Change a tag, its type, count or one of its values; exchange two strips; or damage the pixel data."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    entries, following = _entries(data, order, big)
    changed, entry, word = bytearray(data), random.choice(entries), "Q" if big else "I"
    match random.randrange(8):
        case 0:
            struct.pack_into(order + "H", changed, entry.at, random.choice(TIFF_TAGS))
        case 1:
            struct.pack_into(order + "H", changed, entry.at + 2, random.randrange(20))
        case 2:
            struct.pack_into(order + word, changed, entry.at + 4, _near(random, entry.count, 32))
        case 3:
            struct.pack_into(order + word, changed, following, random.choice((8, 16, entry.at, len(data), 0xFFFF)))
        case 4:
            starts = next(one for one in entries if one.tag in (273, 324) and one.count > 1)
            _swap(random, changed, starts)
        case 5:
            start = max(one.values for one in entries)
            return data[:start] + _damaged(random, data[start:])
        case _:
            size = SIZES.get(entry.kind, 1)
            at = entry.values + size * random.randrange(max(1, min(entry.count, 1000)))
            layout = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
            (value,) = struct.unpack_from(layout, changed, at)
            struct.pack_into(layout, changed, at, _near(random, value, 8 * size))
    return bytes(changed)


def _entries(data: bytes, order: str, big: bool) -> tuple[list[_Entry], int]:
    word, counter, head, size = ("Q", "Q", 8, 8) if big else ("I", "H", 4, 4)
    (start,) = struct.unpack_from(order + word, data, head)
    (count,) = struct.unpack_from(order + counter, data, start)
    at = start + struct.calcsize(order + counter)
    entries = []
    for _ in range(min(count, 100)):
        tag, kind, number_of_values = struct.unpack_from(order + "HH" + word, data, at)
        place = at + 4 + size
        if number_of_values * SIZES.get(kind, 1) > size:
            (place,) = struct.unpack_from(order + word, data, place)
        entries.append(_Entry(at, tag, kind, number_of_values, place))
        at += 4 + 2 * size
    return entries, at


def _swap(random: Random, changed: bytearray, entry: _Entry) -> None:
    size = SIZES.get(entry.kind, 1)
    first, second = (entry.values + size * random.randrange(entry.count) for _ in range(2))
    changed[first : first + size], changed[second : second + size] = (
        changed[second : second + size],
        changed[first : first + size],
    )


def mutate_bmp(random: Random, data: bytes) -> bytes:
    """Change a field of the header, a mask, the palette or the pixel data."""
    (start,) = struct.unpack_from("<I", data, 10)
    fields = [
        (2, "I"),
        (10, "I"),
        (14, "I"),
        (18, "i"),
        (22, "i"),
        (26, "H"),
        (28, "H"),
        (30, "I"),
        (34, "I"),
        (46, "I"),
    ]
    fields += [(at, "I") for at in (54, 58, 62, 66)]
    if random.random() < 0.3:
        return data[:start] + _damaged(random, data[start:])
    changed = bytearray(data)
    at, kind = random.choice(fields)
    bits = 8 * struct.calcsize("<" + kind)
    (value,) = struct.unpack_from("<" + kind.upper(), data, at)
    value = random.choice((_near(random, value, bits), random.choice((1, 2, 3, 4, 6, 8, 16, 24, 32, 12, 40, 108))))
    struct.pack_into("<" + kind.upper(), changed, at, value)
    return bytes(changed)


def mutate_dicom(random: Random, data: bytes) -> bytes:
    """Change an element, its VR, length or value, its place or number; a codestream or its fragments."""
    meta = 144 + struct.unpack_from("<I", data, 140)[0]
    if ROOT + b".1.99" in data[:meta] and random.random() < 0.9:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        inside = _element(random, zlib.decompress(data[meta:], -zlib.MAX_WBITS), 0, "<")
        return data[:meta] + packer.compress(inside) + packer.flush()
    start = data.find(b"\xe0\x7f\x10\x00O", meta)
    if start >= 0 and data[start + 8 : start + 12] == b"\xff" * 4 and random.random() < 0.4:
        return _fragments(random, data, start + 12)
    return _element(random, data, 132 if random.random() < 0.2 else meta, ">" if ROOT + b".2\0" in data[:meta] else "<")


def _fragments(random: Random, data: bytes, start: int) -> bytes:
    """Damage the first fragment, cut it in two, write it twice, or change the table of offsets."""
    offset = start + 8 + struct.unpack_from("<I", data, start + 4)[0]
    (length,) = struct.unpack_from("<I", data, offset + 4)
    body, rest = data[offset + 8 : offset + 8 + length], data[offset + 8 + length :]
    way = random.randrange(6)
    parts = [body]
    if way < 3:
        parts = [_damaged(random, body)]
    elif way == 3:
        cut = random.randrange(0, length, 2)
        parts = [body[:cut], body[cut:]]
    elif way == 4:
        parts = [body, body]
    else:
        table = struct.pack("<I", _near(random, 0, 32)) * random.randrange(3)
        return data[:start] + _item(table) + data[offset:]
    return data[:offset] + b"".join(map(_item, parts)) + rest


def _item(body: bytes) -> bytes:
    body += bytes(len(body) % 2)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body


def _element(random: Random, data: bytes, start: int, order: str) -> bytes:
    elements = _elements(data, start, order)
    at, head, length = random.choice(elements)
    end = at + head + length
    match random.randrange(8):
        case 0 if data[at + 4 : at + 6] in LONG + SHORT:
            return data[: at + 4] + random.choice(LONG + SHORT) + data[at + 6 :]
        case 1:
            size = 4 if head == 12 or data[at + 4 : at + 6] not in SHORT else 2
            lie = _near(random, length, 8 * size).to_bytes(size, "little" if order == "<" else "big")
            return data[: at + head - size] + lie + data[at + head :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:end] + data[end:]
        case 4:
            other = random.choice(elements)[0]
            rest = data[:at] + data[end:]
            return rest[:other] + data[at:end] + rest[other:]
        case _:
            value = _value(random, data[at + head : end], order)
            value += b"\0" * (len(value) % 2)
            size = 2 if head == 8 and data[at + 4 : at + 6] in (*SHORT, b"AE", b"SH", b"ST", b"LT", b"TM") else 4
            packed = len(value).to_bytes(size, "little" if order == "<" else "big")
            return data[: at + head - size] + packed + value + data[end:]


def _elements(data: bytes, start: int, order: str) -> list[tuple[int, int, int]]:
    """Return the place, the size of the head and the length of each element, as far as lengths can be followed."""
    found = []
    while start + 8 <= len(data):
        vr = data[start + 4 : start + 6]
        if vr in LONG:
            head, (length,) = 12, struct.unpack_from(order + "I", data, start + 8)
        elif vr.isalpha() and vr.isupper():
            head, (length,) = 8, struct.unpack_from(order + "H", data, start + 6)
        else:
            head, (length,) = 8, struct.unpack_from(order + "I", data, start + 4)
        if length > len(data):
            break
        found.append((start, head, length))
        start += head + length
    return found


def _value(random: Random, value: bytes, order: str) -> bytes:
    """Return another value: for a number, numbers; for text, the words of the standard."""
    if len(value) in (2, 4) and random.random() < 0.8:
        old = int.from_bytes(value, "little" if order == "<" else "big")
        small = random.choice((0, 1, 2, 3, 7, 8, 11, 12, 15, 16, 24, 32))
        new = random.choice((small, _near(random, old, 8 * len(value))))
        return new.to_bytes(len(value), "little" if order == "<" else "big")
    if value.startswith(ROOT) and random.random() < 0.7:
        return random.choice(UIDS)
    if random.random() < 0.3 or len(value) > 100:
        return _damaged(random, value)
    return random.choice(TEXTS + SHADES)


MUTATIONS: dict[str, Callable[[Random, bytes], bytes]] = {
    "tiff": mutate_tiff,
    "bmp": mutate_bmp,
    "dicom": mutate_dicom,
}
