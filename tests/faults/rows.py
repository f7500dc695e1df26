"""A row of the table of faults that one file can have, and the pixels that its files are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from tests.faults.files import Pixels, encode, noise

HEIGHT, WIDTH = 30, 41


class Row(NamedTuple):
    """One file: its name, its bytes, and the code that it must give, or the pixels whose answer it must give.

    `fields` are of the contract's input, where not the usual one.
    """

    number: int
    name: str
    make: Callable[[], bytes]
    gives: str | Callable[[], Pixels]
    fields: dict[str, Any] = {}  # noqa: RUF012 - never written to

    @property
    def title(self) -> str:
        """Return what a test calls it."""
        return f"F{self.number} {self.name}"


@cache
def rgb() -> Pixels:
    """Return colours, 8 bit."""
    return noise(HEIGHT, WIDTH)


@cache
def gray() -> Pixels:
    """Return gray levels, 8 bit."""
    return noise(HEIGHT, WIDTH, 1)


@cache
def deep() -> Pixels:
    """Return gray levels, 16 bit."""
    return noise(HEIGHT, WIDTH, 1, np.uint16)


def high_bytes() -> Pixels:
    """Return what `deep` is by the usual rule for 16 bits."""
    return (deep() >> 8).astype(np.uint8)


def of_12_bits() -> Pixels:
    """Return what the 12 bits of `deep() >> 4` span, in 8 bits."""
    return np.floor((deep() >> 4) / 4095 * 255 + 0.5).astype(np.uint8)


def png(**options: Any) -> bytes:
    """Return `rgb` as a file."""
    return encode(rgb(), "PNG", **options)


def jpeg(**options: Any) -> bytes:
    """Return `rgb` as a file."""
    return encode(rgb(), "JPEG", quality=90, **options)


def cut(data: bytes, share: float) -> bytes:
    """Return the first part of a file."""
    return data[: int(len(data) * share)]
