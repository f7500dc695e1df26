"""Gray levels and colors of stored values: computed once for all patterns, at most 65,536, and then looked up.

Order (PS3.3 C.11): modality LUT, window or VOI LUT, MONOCHROME1 inverted once, [0, 1] -> floor(255 x + 0.5).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    convert_color_space,
)
from pydicom.sequence import Sequence

from medinfer.errors import ImageError
from medinfer.imaging.dicom._elements import PALETTE, Elements
from medinfer.imaging.dicom._format import PixelFormat
from medinfer.spec import Dicom, PercentileWindow

BLOCK = 1 << 20  # pixels that are counted or converted at a time
Levels = npt.NDArray[np.uint8]


def gray(elements: Elements, pixels: PixelFormat, samples: Any, spec: Dicom) -> tuple[Levels, tuple[str, ...]]:
    """Return gray levels, and `window_fallback` where the file has neither a window nor a VOI LUT."""
    stored = _stored_values(pixels, samples)
    with np.errstate(all="ignore"):  # hostile slopes and widths overflow; the result is judged
        values = _modality(elements, pixels, stored, spec.frame)
        shown = _by_file(elements, pixels, values, spec.frame) if spec.window == "file" else None
        warnings = ("window_fallback",) if spec.window == "file" and shown is None else ()
        if isinstance(spec.window, tuple):
            shown = _windowed(values, *spec.window)
        elif shown is None:
            percents = spec.window.percentile if isinstance(spec.window, PercentileWindow) else (0.0, 100.0)
            counts = np.where(_is_padding(elements, pixels, stored), 0, _counts(samples, len(values)))
            shown = _by_range(values, counts, percents)
        levels = np.floor(255 * (1 - shown if pixels.photometric == "MONOCHROME1" else shown) + 0.5)
    return _applied(levels, samples), warnings


def palette(elements: Elements, pixels: PixelFormat, samples: Any) -> Levels:
    """Return the colors of a palette, the high byte of entries of 16 bits."""
    if "SegmentedRedPaletteColorLookupTableData" in elements:
        raise ImageError("unsupported_format", "a palette in segments", hint="Convert the file to RGB.")
    stored, channels = _stored_values(pixels, samples), []
    for name in PALETTE:
        entries, first, depth = _entries(elements, f"{name}Descriptor", f"{name}Data", signed=pixels.signed)
        table = Dataset()
        for channel in PALETTE:
            table.add_new(f"{channel}Descriptor", "US", [len(entries), 0, 16])
            table.add_new(f"{channel}Data", "OW", (entries >> (depth - 8)).tobytes())
        channels.append(apply_color_lut(np.clip(stored - first, 0, len(entries) - 1), table)[:, 0])
    return np.dstack([_applied(levels, samples) for levels in channels])


def color(pixels: PixelFormat, samples: Any, photometric: str) -> Levels:
    """Return RGB: v of n stored bits becomes floor(255 v / (2^n - 1) + 0.5), and YBR_FULL is converted."""
    if pixels.stored != 8:
        top = (1 << pixels.stored) - 1
        samples = _applied(np.floor((np.arange(1 << 8 * samples.itemsize) & top) * (255 / top) + 0.5), samples)
    rgb, step = np.array(samples), max(1, BLOCK // samples.shape[1])
    for row in range(0, len(rgb) if photometric != "RGB" else 0, step):
        rgb[row : row + step] = convert_color_space(samples[row : row + step], "YBR_FULL", "RGB")
    return rgb


def _applied(levels: Any, samples: Any) -> Levels:
    image: Any = cv2.LUT(samples, levels.astype(np.uint8))
    return image  # type: ignore[no-any-return]


def _stored_values(pixels: PixelFormat, samples: Any) -> Any:
    """Return the number of each pattern, int32 (256,) or (65536,); bits above the stored ones are ignored."""
    patterns, above = np.arange(1 << 8 * samples.itemsize, dtype=np.int32), 32 - pixels.stored
    return patterns << above >> above if pixels.signed else patterns & ((1 << pixels.stored) - 1)


def _modality(elements: Elements, pixels: PixelFormat, stored: Any, frame: int) -> Any:
    """Return the meaning of each stored value, such as Hounsfield units: float64 (PS3.3 C.11.1)."""
    if table := elements.item("ModalityLUTSequence"):
        return _looked_up(table, "ModalityLUTSequence", stored, pixels)[0].astype(np.float64)
    group = _functional_group(elements, "PixelValueTransformationSequence", frame)
    slope, intercept = group.number("RescaleSlope"), group.number("RescaleIntercept") or 0.0
    values = apply_modality_lut(
        stored, _dataset(RescaleSlope=1 if slope is None else slope, RescaleIntercept=intercept)
    )
    if not np.isfinite(values).all() or values.min() == values.max():
        raise ImageError("invalid_dicom", f"rescale slope {slope}, intercept {intercept}")
    return values


def _by_file(elements: Elements, pixels: PixelFormat, values: Any, frame: int) -> Any:
    """Return values in [0, 1] by the first window of the file, or its first VOI LUT; None if neither can be used."""
    group = _functional_group(elements, "FrameVOILUTSequence", frame)
    center, width = group.number("WindowCenter"), group.number("WindowWidth")
    function = group.text("VOILUTFunction").upper() or "LINEAR"
    if center is not None and width is not None:
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            hint = "Set a window in the model spec: input.dicom.window."
            raise ImageError("unsupported_format", "a VOI LUT function that DICOM does not define", hint=hint)
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return _windowed(values, center, width, function)
    if table := elements.item("VOILUTSequence"):
        entries, depth = _looked_up(table, "VOILUTSequence", np.floor(values), pixels)
        return np.minimum(entries / (2.0**depth - 1), 1)
    return None


def _windowed(values: Any, center: float, width: float, function: str = "LINEAR") -> Any:
    window = _dataset(WindowCenter=center, WindowWidth=width)
    window.PhotometricInterpretation, window.VOILUTFunction = "MONOCHROME2", function
    window.BitsStored, window.PixelRepresentation = 1, 0  # the range from 0 to 1
    return apply_windowing(values, window)


def _by_range(values: Any, counts: Any, percents: tuple[float, float]) -> Any:
    """Return values in [0, 1] between two percentiles (nearest rank); 0 if these are equal, or nothing is counted."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    ranks = [max(1, math.ceil(Fraction(repr(percent)) * int(below[-1]) / 100)) for percent in percents]
    if not below[-1]:
        return np.zeros_like(values)
    low, high = values[order[np.searchsorted(below, ranks)]]
    return np.clip((values - low) / (high - low), 0, 1) if low < high else np.zeros_like(values)


def _counts(samples: Any, patterns: int) -> Any:
    """Return how often each pattern is in an image, without the 8 bytes a pixel that numpy takes to count."""
    flat = samples.reshape(-1)
    blocks = (flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK))
    return sum(np.bincount(block, minlength=patterns) for block in blocks)


def _is_padding(elements: Elements, pixels: PixelFormat, stored: Any) -> Any:
    """Return which stored values are padding (C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in elements:
        return np.zeros(len(stored), bool)
    ends = [elements.integer("PixelPaddingValue")]
    ends.append(elements.integer("PixelPaddingRangeLimit", ends[0]))
    if pixels.signed:
        ends = [end - (1 << 16) if end >= 1 << 15 else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _functional_group(elements: Elements, macro: str, frame: int) -> Elements:
    """Return the elements that hold for a frame: in its functional group, in the shared one, or in the data set."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        group = elements.item(groups, index)
        if group and (item := group.item(macro)):
            return item
    return elements


def _looked_up(table: Elements, sequence: str, values: Any, pixels: PixelFormat) -> tuple[Any, int]:
    """Return the entry of each value, and how many bits an entry has; beyond the ends the nearest entry."""
    entries, first, depth = _entries(table, "LUTDescriptor", "LUTData", signed=pixels.signed or values.min() < 0)
    item, holder = Dataset(), Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), 0, 16])
    item.add_new("LUTData", "US", entries.tolist())
    setattr(holder, sequence, Sequence([item]))
    apply = apply_voi if sequence == "VOILUTSequence" else apply_modality_lut
    return apply(np.clip(values - first, 0, len(entries) - 1).astype(np.int32), holder), depth


def _entries(elements: Elements, descriptor: str, data: str, *, signed: bool) -> tuple[Any, int, int]:
    """Return the entries of a LUT as uint16, the first value mapped, and how many bits an entry has (C.11.1.1)."""
    count, first, depth, *_ = *elements.integers(descriptor), 0, 0, 0
    if first >= 1 << 15 and (elements.vr(descriptor) or ("SS" if signed else "US")) == "SS":
        first -= 1 << 16
    count, value = count or 1 << 16, elements.value(data)
    words: Any = np.frombuffer(value[: len(value) // 2 * 2], f"{elements.source.order}u2").astype("<u2")
    # Entries of 8 bits are two in a word, the low byte first, or one in each.
    entries = words[:count] if len(words) >= count else words.view(np.uint8)[:count]
    if not 8 <= depth <= 16 or len(entries) < count:
        raise ImageError("invalid_dicom", f"{data} has {len(entries)} entries of {depth} bits, not {count}")
    # Descriptors may state fewer bits than there are.
    depth = 8 if entries.dtype == np.uint8 else max(depth, int(entries.max()).bit_length())
    return entries.astype("<u2"), first, depth


def _dataset(**numbers: float) -> Dataset:
    """Return a data set of numbers as FD; of DS, pydicom would warn if they are long."""
    dataset = Dataset()
    for keyword, number in numbers.items():
        dataset.add_new(keyword, "FD", number)
    return dataset
