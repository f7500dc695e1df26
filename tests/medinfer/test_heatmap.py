"""Overlays: where a map falls on the image that the tensor was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medinfer.heatmap import overlay
from medinfer.spec import Crop, CropFit, Depth16, InputSpec, Pad, PadFit

SPEC = InputSpec(height=40, width=40, mean=(0.5,) * 3, std=(0.25,) * 3)
CORNER = np.zeros((4, 4), np.float32)
CORNER[0, 0] = 5


def painted(image, heatmap, spec):
    """Return where an overlay differs from its image."""
    pixels = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return np.abs(overlay(image, heatmap, spec).astype(int) - pixels).max(axis=2) > 8


def test_the_strongest_place_is_painted_where_the_network_saw_it():
    image = np.full((80, 200, 3), 100, np.uint8)
    where = painted(image, CORNER, SPEC)
    assert where[:10, :25].all()
    assert not where[:, 100:].any()
    assert not where[40:].any()


def test_what_a_crop_cut_off_is_left_as_it_is():
    # 80x160 becomes 40x80, of which the network sees the middle: columns 40 to 120 of the image.
    spec = replace(SPEC, fit=CropFit(crop=Crop(resize=40)))
    where = painted(np.full((80, 160, 3), 100, np.uint8), np.ones((4, 4), np.float32), spec)
    assert where[:, 44:116].all()
    assert not where[:, :36].any()
    assert not where[:, 124:].any()


@pytest.mark.parametrize(("anchor", "row"), [("center", 1), ("top_left", 0)])
def test_what_a_pad_added_is_no_part_of_the_image(anchor, row):
    # 40x80 becomes 20x40: rows 10 to 30 of the tensor if centred, 0 to 20 otherwise.
    spec = replace(SPEC, fit=PadFit(pad=Pad(anchor=anchor)))
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[row] = 1
    where = painted(np.full((40, 80, 3), 100, np.uint8), heatmap, spec)
    assert where[2:8].all()
    assert not where[34:].any()


def test_shares_against_a_class_are_not_painted():
    image = np.full((40, 40, 3), 100, np.uint8)
    assert not painted(image, -np.ones((4, 4), np.float32), SPEC).any()
    assert not painted(image, np.zeros((4, 4), np.float32), SPEC).any()


def test_gray_and_16_bit_images_become_colour():
    spec = replace(SPEC, depth16=Depth16(rule="range", low=0, high=4095))
    drawn = overlay(np.full((30, 50), 4095, np.uint16), CORNER, spec)
    assert drawn.shape == (30, 50, 3)
    assert (drawn[-1, -1] == 255).all()
