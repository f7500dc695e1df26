"""Case number so-and-so of a seed: always the same bytes, from whole files of every format."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import NamedTuple

from tests.faults.fuzz import models, structure
from tests.faults.fuzz.mutations import damage
from tests.faults.samples import SAMPLES

# Seventeen images and three models of every twenty.
PARTS = {"png": 4, "jpeg": 4, "tiff": 4, "dicom": 3, "webp": 1, "bmp": 1, "onnx": 3}
ORDER = [kind for kind, count in PARTS.items() for _ in range(count)]
UNFIT = (*structure.UNFIT, *models.UNFIT)
TIMES = (1, 1, 1, 2, 4)


class Case(NamedTuple):
    """One damaged file."""

    index: int
    kind: str
    sample: str
    data: bytes


@cache
def samples(kind: str) -> dict[str, bytes]:
    """Return the whole files of a format."""
    return SAMPLES[kind]()


def case(seed: int, index: int) -> Case:
    """Return a case; the same for the same seed and index, whatever was made before."""
    random = Random(f"{seed} {index}")
    kind = ORDER[index % len(ORDER)]
    name, data = random.choice(list(samples(kind).items()))
    for _ in range(random.choice(TIMES)):
        data = _damaged(random, kind, data)
    return Case(index, kind, name, data)


def _damaged(random: Random, kind: str, data: bytes) -> bytes:
    """Damage the structure, or, every third time and where there is none left, the bytes."""
    if random.random() < 0.67:
        try:
            if kind == "onnx":
                return models.damage_model(random, data)
            return structure.STRUCTURED[kind](random, data)
        except UNFIT:
            pass
    return damage(random, data, random.choice(list(samples(kind).values())))
