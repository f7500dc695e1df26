"""The first directory of a TIFF: its tags, in place. EXIF blocks have the same form."""

from __future__ import annotations

import struct
from typing import NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging._files import Bytes

INTEGERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MAX_TAGS = 4096


class Tag(NamedTuple):
    """Where the values of a tag are: their type, their number and the offset of the first."""

    kind: int
    length: int
    offset: int


class Directory:
    """The tags of a directory. Values are read when they are asked for.

    Its methods raise ImageError `corrupt` for a tag of another type or with more values than expected, and struct.error
    for values behind the end of the bytes.
    """

    def __init__(self, data: Bytes, order: str, tags: dict[int, Tag], following: int) -> None:
        self.data = data
        self.order = order
        self.following = following
        """Offset of the next directory; 0 if there is none."""
        self._tags = tags

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags

    def is_of_known_types(self) -> bool:
        """Tell whether every tag has one of the types that TIFF defines."""
        return all(tag.kind in SIZES for tag in self._tags.values())

    def ends_early(self) -> bool:
        """Tell whether a value, of whatever tag, lies behind the end of the bytes."""
        ends = (tag.offset + tag.length * SIZES.get(tag.kind, 1) for tag in self._tags.values())
        return max(ends, default=0) > len(self.data)

    def values(self, tag: int, *, most: int) -> tuple[int, ...]:
        """Return the unsigned integers of a tag; () if it is missing."""
        entry = self._tags.get(tag)
        if entry is None:
            return ()
        if entry.kind not in INTEGERS or not 1 <= entry.length <= most:
            what = f"{entry.length} values of type {entry.kind}"
            raise ImageError("corrupt", f"TIFF tag {tag} has {what}; 1 to {most} unsigned integers are expected")
        layout = f"{self.order}{entry.length}{INTEGERS[entry.kind]}"
        return struct.unpack(layout, self.data[entry.offset : entry.offset + struct.calcsize(layout)])

    def value(self, tag: int, default: int) -> int:
        """Return the one unsigned integer of a tag; a default if the tag is missing."""
        return (*self.values(tag, most=1), default)[0]

    def raw(self, tag: int, *, most: int) -> bytes:
        """Return the bytes of a tag, at most so many; none if it is missing."""
        entry = self._tags.get(tag)
        if entry is None:
            return b""
        return self.data[entry.offset : entry.offset + min(most, entry.length * SIZES.get(entry.kind, 1))]


def read_directory(data: Bytes) -> Directory:
    """Read the first directory; raises struct.error where the bytes end within it, ImageError `corrupt`."""
    order = {b"II": "<", b"MM": ">"}.get(data[0:2])
    if order is None:
        raise ImageError("corrupt", "a TIFF names its byte order II or MM")
    (version,) = struct.unpack(order + "H", data[2:4])
    big = version == 43
    if big and data[4:8] not in (b"\x08\0\0\0", b"\0\x08\0\0"):
        raise ImageError("corrupt", "a BigTIFF whose offsets do not have 8 bytes")
    word, start, entry = ("Q", 8, "HHQ") if big else ("I", 4, "HHI")
    size = struct.calcsize(order + word)
    (offset,) = struct.unpack(order + word, data[start : start + size])
    counter = order + ("Q" if big else "H")
    (count,) = struct.unpack(counter, data[offset : offset + struct.calcsize(counter)])
    if count > MAX_TAGS:
        raise ImageError("corrupt", f"the TIFF's directory has {count} tags")
    tags: dict[int, Tag] = {}
    place, step = offset + struct.calcsize(counter), struct.calcsize(order + entry) + size
    block = data[place : place + count * step + size]
    for where in range(0, count * step, step):
        tag, kind, values = struct.unpack_from(order + entry, block, where)
        at = where + step - size
        inline = values * SIZES.get(kind, 1) <= size
        value_offset = place + at if inline else struct.unpack_from(order + word, block, at)[0]
        tags.setdefault(tag, Tag(kind, values, value_offset))
    (following,) = struct.unpack_from(order + word, block, count * step)
    return Directory(data, order, tags, following)
