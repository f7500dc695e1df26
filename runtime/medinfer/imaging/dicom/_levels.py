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
from pydicom.pixels.processing import apply_windowing, convert_color_space

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
        values = _modality(elements, pixels, stored)
        shown = _by_file(elements, pixels, values) if spec.window == "file" else None
        warnings = ("window_fallback",) if spec.window == "file" and shown is None else ()
        if isinstance(spec.window, tuple):
            shown = _windowed(values, *spec.window)
        elif shown is None:
            percents = spec.window.percentile if isinstance(spec.window, PercentileWindow) else (0.0, 100.0)
            shown = _by_range(values, np.where(_is_padding(elements, pixels, stored), 0, _counts(samples)), percents)
        levels = np.floor(255 * (1 - shown if pixels.photometric_interpretation == "MONOCHROME1" else shown) + 0.5)
    return _applied(levels, samples), warnings


def palette(elements: Elements, pixels: PixelFormat, samples: Any) -> Levels:
    """Return the colors of a palette, the high byte of entries of 16 bits; one in segments is invalid."""
    for part in ("Descriptor", "Data"):
        tables = [elements.raw(name + part) for name in PALETTE]
        if not all(tables) or len({table.value if part == "Descriptor" else table.length for table in tables}) != 1:
            raise ImageError("invalid_dicom", "a palette whose three tables are not alike")
    stored, channels = _stored_values(pixels, samples), []
    for name in PALETTE:
        entries, depth = _looked_up(elements, f"{name}Descriptor", f"{name}Data", stored, pixels)
        channels.append(_applied(entries >> (depth - 8), samples))
    return np.dstack(channels)


def color(pixels: PixelFormat, samples: Any, photometric: str) -> Levels:
    """Return RGB: v of n stored bits becomes floor(255 v / (2^n - 1) + 0.5), and YBR_FULL is converted."""
    if pixels.bits_stored != 8:
        top = (1 << pixels.bits_stored) - 1
        samples = _applied(np.floor((np.arange(1 << 8 * samples.itemsize) & top) * (255 / top) + 0.5), samples)
    rgb, step = np.array(samples), max(1, BLOCK // samples.shape[1])
    for row in range(0, len(rgb) if photometric != "RGB" else 0, step):
        rgb[row : row + step] = convert_color_space(samples[row : row + step], "YBR_FULL", "RGB")
    return rgb


def _applied(levels: Any, samples: Any) -> Any:
    return cv2.LUT(samples, levels.astype(np.uint8))


def _stored_values(pixels: PixelFormat, samples: Any) -> Any:
    """Return the number of each pattern, int32 (256,) or (65536,); bits above the stored ones are ignored."""
    patterns, above = np.arange(1 << 8 * samples.itemsize, dtype=np.int32), 32 - pixels.bits_stored
    return patterns << above >> above if pixels.pixel_representation else patterns & ((1 << pixels.bits_stored) - 1)


def _modality(elements: Elements, pixels: PixelFormat, stored: Any) -> Any:
    """Return the meaning of each stored value, such as Hounsfield units: float64 (PS3.3 C.11.1)."""
    for table in elements.items("ModalityLUTSequence")[:1]:
        return _looked_up(table, "LUTDescriptor", "LUTData", stored, pixels)[0].astype(np.float64)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in elements.dataset and elements.dataset[keyword].VM != 1:
            raise ImageError("invalid_dicom", f"{keyword} does not have one value")
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    values = stored.astype(np.float64)
    if slope is not None and intercept is not None:
        values = values * slope + intercept
    if not np.isfinite(values).all() or values.min() == values.max():
        raise ImageError("invalid_dicom", f"rescale slope {slope}, intercept {intercept}")
    return values


def _by_file(elements: Elements, pixels: PixelFormat, values: Any) -> Any:
    """Return values in [0, 1] by the first window of the file, or its first VOI LUT; None if neither can be used."""
    center, width = elements.number("WindowCenter"), elements.number("WindowWidth")
    function = str(elements.value("VOILUTFunction") or "LINEAR").upper()
    if center is not None and width is not None:
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            hint = "Set a window in the model spec: input.dicom.window."
            raise ImageError("unsupported_format", "a VOI LUT function that DICOM does not define", hint=hint)
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return _windowed(values, center, width, function)
    for table in elements.items("VOILUTSequence")[:1]:
        entries, depth = _looked_up(table, "LUTDescriptor", "LUTData", np.floor(values), pixels)
        return np.minimum(entries / (2.0**depth - 1), 1)
    return None


def _windowed(values: Any, center: float, width: float, function: str = "LINEAR") -> Any:
    window = Dataset()
    window.PhotometricInterpretation, window.VOILUTFunction = "MONOCHROME2", function
    window.BitsStored, window.PixelRepresentation = 1, 0  # the range from 0 to 1
    window.add_new("WindowCenter", "FD", center)  # of DS, pydicom would warn if they are long
    window.add_new("WindowWidth", "FD", width)
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


def _counts(samples: Any) -> Any:
    """Return how often each pattern is in an image, without the 8 bytes a pixel that numpy takes to count."""
    flat, patterns = samples.reshape(-1), 1 << 8 * samples.itemsize
    return sum(np.bincount(flat[start : start + BLOCK], minlength=patterns) for start in range(0, len(flat), BLOCK))


def _is_padding(elements: Elements, pixels: PixelFormat, stored: Any) -> Any:
    """Return which stored values are padding (C.7.5.1.1.2)."""
    first, last = elements.value("PixelPaddingValue"), elements.value("PixelPaddingRangeLimit")
    if first is None:
        return np.zeros(len(stored), bool)
    kind = np.int16 if pixels.pixel_representation else np.uint16  # files misstate it
    ends = np.array([first, first if last is None else last], np.int64).astype(kind)
    return (stored >= ends.min()) & (stored <= ends.max())


def _looked_up(elements: Elements, descriptor: str, data: str, values: Any, pixels: PixelFormat) -> tuple[Any, int]:
    """Return the entry of each value as uint16, the nearest one beyond the ends, and how many bits an entry has.

    pydicom's functions wrap around in tables of 8 bits, and read neither 12-bit nor packed ones (C.11.1.1).
    """
    header, body = elements.raw(descriptor), elements.raw(data)
    order = "<" if header.is_little_endian else ">"
    count, first, depth = np.frombuffer(header.value, f"{order}u2", 3).tolist()
    signed = pixels.pixel_representation or values.min() < 0
    if first >= 1 << 15 and (header.VR or ("SS" if signed else "US")) == "SS":
        first -= 1 << 16
    count, words = count or 1 << 16, np.frombuffer(body.value, f"{order}u2", len(body.value) // 2).astype("<u2")
    # Entries of 8 bits are two in a word, the low byte first, or one in each.
    entries: Any = words[:count] if len(words) >= count else words.view(np.uint8)[:count]
    if not 8 <= depth <= 16 or len(entries) < count:
        raise ImageError("invalid_dicom", f"{data} has {len(entries)} entries of {depth} bits, not {count}")
    # Descriptors may state fewer bits than there are.
    depth = 8 if entries.dtype == np.uint8 else max(depth, int(entries.max()).bit_length())
    return entries[np.clip(values - first, 0, count - 1).astype(np.int32)].astype(np.uint16), depth
