"""DICOM -> pixels: the only file that knows pydicom.

Order (DICOM PS3.3 C.11): modality LUT, VOI window, MONOCHROME1 inverted once, [0, 1] -> floor(255 x + 0.5).
No tag is ever copied to an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError
from medinfer.spec import Dicom

if TYPE_CHECKING:
    from pydicom import Dataset

GRAY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(data: bytes, spec: Dicom, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return one frame as uint8: (H, W) gray, or (H, W, 3) RGB for colour.

    Raises:
        ImageError: `invalid_dicom`, `too_large`, `multi_frame`, `missing_decoder`
            (pydicom itself included), `unsupported_format`, `unsupported_dtype`.
    """
    try:
        import pydicom
    except ImportError:
        hint = 'Install it: pip install "medonnx[dicom]"'
        raise ImageError("missing_decoder", "DICOM support is not installed", hint=hint) from None
    try:
        dataset = pydicom.dcmread(BytesIO(data))
        _check_size(dataset, max_pixels)
        frame = _frame(dataset, dataset.pixel_array, spec.frame)
        return _to_uint8(dataset, frame, spec)
    except ImageError:
        raise
    except NotImplementedError as error:
        raise ImageError("missing_decoder", f"no decoder for this transfer syntax: {_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - pydicom meets hostile data with whatever Python raises
        if "plugins" in str(error) and "missing" in str(error):
            raise ImageError("missing_decoder", f"no decoder for this transfer syntax: {_line(error)}") from None
        raise ImageError("invalid_dicom", _line(error)) from None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _check_size(dataset: Dataset, max_pixels: int) -> None:
    """Refuse by the header what would be allocated for the pixels of all frames."""
    if "PixelData" not in dataset:
        raise ImageError("invalid_dicom", "no pixel data")
    rows, columns, frames = (int(dataset.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames"))
    if rows * columns * frames > max_pixels:
        raise ImageError("too_large", f"{frames} x {columns}x{rows} pixels is over the limit of {max_pixels}")
    if int(dataset.BitsAllocated) > 16:
        raise ImageError("unsupported_dtype", f"{dataset.BitsAllocated}-bit samples; 8 or 16 bit are supported")


def _frame(dataset: Dataset, pixels: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames == 1:
        if index != 0:
            raise ImageError("multi_frame", f"frame {index} of a file with one")
        return pixels
    if index >= frames:
        raise ImageError("multi_frame", f"frame {index} of a file with {frames}")
    return pixels[index]  # type: ignore[no-any-return]


def _to_uint8(dataset: Dataset, frame: npt.NDArray[Any], spec: Dicom) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        colors = apply_color_lut(frame, dataset)
        return (colors >> 8 if colors.dtype == np.uint16 else colors).astype(np.uint8)
    if photometric not in GRAY:
        if frame.dtype != np.uint8 or frame.ndim != 3:
            raise ImageError("unsupported_format", f"{photometric} with samples of {frame.dtype}")
        return frame
    values = apply_modality_lut(frame, dataset).astype(np.float64)
    shown = _window(dataset, values, spec)
    if photometric == "MONOCHROME1":
        shown = 1 - shown
    return np.floor(255 * shown + 0.5).astype(np.uint8)


def _window(dataset: Dataset, values: npt.NDArray[np.float64], spec: Dicom) -> npt.NDArray[np.float64]:
    """Return values in [0, 1] by the window chosen, or by the full range of the stored bits where there is none."""
    if spec.window != "file":
        return _linear(values, *spec.window)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    window = [_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth")]
    if window[0] is not None and window[1] is not None and window[1] >= 1 and function == "LINEAR":
        return _linear(values, window[0], window[1])
    if "VOILUTSequence" in dataset or function != "LINEAR":
        raise ImageError("unsupported_format", f"a VOI {function} look-up; set a window in the recipe")
    low, high = _stored_range(dataset)
    return np.clip((values - low) / (high - low), 0, 1)


def _first(value: Any) -> float | None:
    """Return the first of one or several windows, as a viewer shows; None where the element is missing or empty."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _linear(values: npt.NDArray[np.float64], center: float, width: float) -> npt.NDArray[np.float64]:
    """DICOM PS3.3 C.11.2.1.2.1, scaled to [0, 1]."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _stored_range(dataset: Dataset) -> tuple[float, float]:
    """Return what the lowest and highest storable sample become under the modality rescale."""
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(dataset.PixelRepresentation) else (0, 2**bits - 1)
    slope, intercept = (float(dataset.get(n, d)) for n, d in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    if ends[0] == ends[1]:
        raise ImageError("invalid_dicom", f"rescale slope {slope}")
    return ends[0], ends[1]
