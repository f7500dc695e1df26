"""Damage to bytes that knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Damage = Callable[[Random, bytearray], None]

NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER = 160


def damage(random: Random, data: bytes, other: bytes) -> bytes:
    """Return a file with one thing wrong; `other` is one of the same format, to splice with."""
    if random.random() < 0.1:
        return data[: _place(random, data)] + other[_place(random, other) :]
    changed = bytearray(data)
    random.choice(DAMAGES)(random, changed)
    return bytes(changed)


def number(random: Random, bits: int) -> int:
    """Return an unsigned number at the edge of what programs reckon with, or any."""
    return random.choice((*NUMBERS, random.getrandbits(bits), random.getrandbits(8))) & ((1 << bits) - 1)


def _place(random: Random, data: bytes | bytearray) -> int:
    """Return a position, every other time within the header."""
    return random.randrange(max(1, min(len(data), HEADER) if random.random() < 0.5 else len(data)))


def _run(random: Random, data: bytearray) -> slice:
    start = _place(random, data)
    return slice(start, start + random.choice((1, 2, 4, random.randrange(1, 64), random.randrange(1, 1024))))


def flip_bits(random: Random, data: bytearray) -> None:
    """Turn one to eight bits over."""
    for _ in range(random.randrange(1, 9)):
        if data:
            data[_place(random, data)] ^= 1 << random.randrange(8)


def overwrite(random: Random, data: bytearray) -> None:
    """Write noise, zeros or ones over a run."""
    run = _run(random, data)
    length = len(data[run])
    data[run] = random.choice((random.randbytes(length), bytes(length), b"\xff" * length))


def overwrite_number(random: Random, data: bytearray) -> None:
    """Write a number at the edge over what may be one."""
    size = random.choice((1, 2, 4, 8))
    start = _place(random, data)
    value = number(random, 8 * size).to_bytes(size, random.choice(("little", "big")))
    data[start : start + size] = value


def insert(random: Random, data: bytearray) -> None:
    """Put noise or zeros between two bytes."""
    start, length = _place(random, data), random.choice((1, 2, 4, random.randrange(1, 300)))
    data[start:start] = random.choice((random.randbytes(length), bytes(length)))


def delete(random: Random, data: bytearray) -> None:
    """Take a run out."""
    del data[_run(random, data)]


def duplicate(random: Random, data: bytearray) -> None:
    """Write a run once more, beside itself or elsewhere."""
    run = data[_run(random, data)]
    start = _place(random, data)
    data[start:start] = run * random.choice((1, 1, 2, 20))


def truncate(random: Random, data: bytearray) -> None:
    """Cut the end off."""
    del data[_place(random, data) :]


DAMAGES: tuple[Damage, ...] = (flip_bits, overwrite, overwrite_number, insert, delete, duplicate, truncate)
