"""What each stored value of a DICOM picture is shown as: one table a picture, of at most 65,536 entries.

Order (DICOM PS3.3 C.11): modality LUT, VOI window or LUT, MONOCHROME1 inverted once, [0, 1] -> floor(255 x + 0.5).
Computed in float64 on the table alone, so that a large picture takes no more memory than its samples and its result.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.imaging.dicom._elements import Elements, name
from medinfer.imaging.dicom._frames import PixelFormat
from medinfer.spec import Dicom

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.uint8]

INTERCEPT, SLOPE, MODALITY_LUTS = 0x00281052, 0x00281053, 0x00283000
WINDOW_CENTER, WINDOW_WIDTH, VOI_FUNCTION, VOI_LUTS = 0x00281050, 0x00281051, 0x00281056, 0x00283010
LUT = (0x00283002, 0x00283006)  # the descriptor and the data of a table
PALETTE = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
SEGMENTED_PALETTE = 0x00281221

# Where multi-frame files keep rescale and window: for each frame, or once for all of them (PS3.3 C.7.6.16).
FRAME_GROUPS, SHARED_GROUPS = 0x52009230, 0x52009229
RESCALE_MACRO, WINDOW_MACRO = 0x00289145, 0x00289132


def gray_levels(elements: Elements, pixels: PixelFormat, bits: int, spec: Dicom) -> Levels:
    """Return the gray level of each pattern of `bits` bits: uint8 (2 ** bits,).

    The window is the contract's, always linear; or the file's first, by the function that the file names; or, where it
    has none that can be used, its first VOI LUT; or else the whole range that the stored bits can span.

    Raises:
        ImageError: `invalid_dicom`, `unsupported_format` (a VOI LUT function that the standard does not define).
    """
    with np.errstate(all="ignore"):  # a hostile slope or width overflows; what comes of it is judged
        values, low, high = _modality(elements, pixels, bits, spec.frame)
        shown = _voi(elements, values, (low, high), spec)
        if pixels.photometric == "MONOCHROME1":
            shown = 1 - shown
        return np.floor(255 * shown + 0.5).astype(np.uint8)


def palette_levels(elements: Elements, pixels: PixelFormat, bits: int) -> Levels:
    """Return red, green and blue of each pattern of `bits` bits, the high byte of 16: uint8 (3, 2 ** bits).

    Raises:
        ImageError: `invalid_dicom`, `unsupported_format` (a palette in segments).
    """
    if SEGMENTED_PALETTE in elements:
        raise ImageError("unsupported_format", "a palette in segments", hint="Convert the file to RGB.")
    stored = _stored_values(pixels, bits)
    channels = [_look_up(elements, tags, stored, signed=pixels.signed) for tags in PALETTE]
    return np.stack([(entries >> (depth - 8)).astype(np.uint8) for entries, depth in channels])


def _stored_values(pixels: PixelFormat, bits: int) -> Floats:
    """Return the number that each pattern of bits stands for; what lies above the stored bits means nothing."""
    patterns = np.arange(1 << bits, dtype=np.int32)
    above = 32 - pixels.stored
    values = patterns << above >> above if pixels.signed else patterns & ((1 << pixels.stored) - 1)
    return values.astype(np.float64)


def _modality(elements: Elements, pixels: PixelFormat, bits: int, frame: int) -> tuple[Floats, float, float]:
    """Return what each pattern means (Hounsfield units, say), and the ends of its range: PS3.3 C.11.1."""
    stored = _stored_values(pixels, bits)
    if table := elements.item(MODALITY_LUTS):
        entries, depth = _look_up(table, LUT, stored, signed=pixels.signed)
        return entries.astype(np.float64), 0.0, 2.0**depth - 1
    group = _functional_group(elements, RESCALE_MACRO, frame)
    slope, intercept = group.number(SLOPE), group.number(INTERCEPT)
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    least = -(1 << (pixels.stored - 1)) if pixels.signed else 0
    ends = sorted((least * slope + intercept, (least + (1 << pixels.stored) - 1) * slope + intercept))
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise ImageError("invalid_dicom", f"rescale slope {slope}, intercept {intercept}")
    return stored * slope + intercept, ends[0], ends[1]


def _voi(elements: Elements, values: Floats, ends: tuple[float, float], spec: Dicom) -> Floats:
    """Return values in [0, 1]: PS3.3 C.11.2."""
    if spec.window != "file":
        return windowed(values, *spec.window)
    if window := _file_window(_functional_group(elements, WINDOW_MACRO, spec.frame)):
        return windowed(values, *window)
    if table := elements.item(VOI_LUTS):
        entries, depth = _look_up(table, LUT, np.floor(values), signed=ends[0] < 0)
        return np.minimum(entries / (2.0**depth - 1), 1)
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _file_window(group: Elements) -> tuple[float, float, str] | None:
    """Return the first window's centre, width and function; None where its width is none that the function allows."""
    center, width = group.number(WINDOW_CENTER), group.number(WINDOW_WIDTH)
    function = group.text(VOI_FUNCTION).upper() or "LINEAR"
    if center is None or width is None:
        return None
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        hint = "Set a window in the contract: input.dicom.window."
        raise ImageError("unsupported_format", "a VOI LUT function that DICOM does not define", hint=hint)
    allowed = width >= 1 if function == "LINEAR" else width > 0
    return (center, width, function) if allowed else None


def windowed(values: Floats, center: float, width: float, function: str = "LINEAR") -> Floats:
    """Return values in [0, 1] by a window: PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 (SIGMOID) and .2 (LINEAR_EXACT)."""
    if function == "SIGMOID":  # 1 / (1 + exp(-4 (x - c) / w)), in a form that cannot overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _functional_group(elements: Elements, macro: int, frame: int) -> Elements:
    """Return where a frame's values stand: its own functional group, the shared one, or beside the pixel data."""
    for groups, index in ((FRAME_GROUPS, frame), (SHARED_GROUPS, 0)):
        group = elements.item(groups, index)
        if group and (found := group.item(macro)):
            return found
    return elements


def _look_up(
    elements: Elements, tags: tuple[int, int], values: Floats, *, signed: bool
) -> tuple[npt.NDArray[np.uint16], int]:
    """Return a table's entry for each value, and how many bits an entry has; beyond its ends the nearest (C.11.1.1)."""
    descriptor, data = tags
    count, first, depth = elements.words(descriptor, 3)
    if first >= 1 << 15 and (elements.vr(descriptor) or ("SS" if signed else "US")) == "SS":
        first -= 1 << 16
    count = count or 1 << 16
    words = np.frombuffer(elements.value(data)[: len(elements.value(data)) // 2 * 2], elements.source.order + "u2")
    # Entries of 8 bits stand two in a word, low byte first, or one in each.
    entries = words[:count] if len(words) >= count else words.astype("<u2").view(np.uint8)[:count]
    if not 8 <= depth <= 16 or len(entries) < count:
        raise ImageError("invalid_dicom", f"{name(data)} has {len(entries)} entries of {depth} bits, not {count}")
    depth = 8 if entries.dtype == np.uint8 else max(depth, int(entries.max()).bit_length())  # descriptors may lie
    places = np.clip(values - first, 0, count - 1).astype(np.intp)
    return entries[places].astype(np.uint16), depth
