"""The page for users names every fault, and no code that does not exist."""

import re
from pathlib import Path

import pytest

from medinfer.errors import IMAGE_CODES

PAGE = (Path(__file__).parents[2] / "docs/faults.md").read_text()
# What stands in backticks like a code, and is none.
OTHERS = {"predict_many", "window_fallback"}


@pytest.mark.parametrize(("letter", "count"), [("F", 63), ("M", 20), ("P", 10)])
def test_every_fault_is_on_the_page(letter, count):
    named = set()
    for first, last in re.findall(rf"\b{letter}(\d+)(?:-{letter}(\d+))?", PAGE):
        named |= set(range(int(first), int(last or first) + 1))
    assert named == set(range(1, count + 1))


def test_the_codes_on_the_page_exist():
    assert set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)) - OTHERS <= set(IMAGE_CODES)
