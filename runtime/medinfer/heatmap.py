"""Heatmaps laid over the images that they explain, at the images' own size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError, UsageError
from medinfer.files import atomic_file
from medinfer.graph import HEATMAP
from medinfer.imaging import Image, ImageSource, read_image, scaled_sides, to_8_bit
from medinfer.spec import CropFit, InputSpec, ModelSpec, PadFit

if TYPE_CHECKING:
    from medinfer.prediction import Prediction

# How much of a pixel the strongest place is painted over; what contributes nothing is left as it is.
STRENGTH = 0.6


def overlay(image: Image, heatmap: npt.NDArray[np.float32], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return an image with a class's map laid over it: uint8 (H, W, 3) RGB, of the image's own size.

    Args:
        image: As `read_image` returns it.
        heatmap: float32 (h, w), one of `Prediction.heatmaps`. Negative shares, which speak against the class, are left
            out; the strongest place of each image has the strongest colour, so colours of two images do not compare.
        spec: The contract's `input`, which says what part of the image the network saw.
    """
    pixels: npt.NDArray[Any] = to_8_bit(image, spec.depth16)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    positive = np.maximum(heatmap, 0)
    shares = _over_image((positive / max(positive.max(), 1e-12)).astype(np.float32), spec, *pixels.shape[:2])
    colours: npt.NDArray[Any] = cv2.applyColorMap((255 * shares).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weights = STRENGTH * shares[..., None]
    return (pixels * (1 - weights) + colours * weights + 0.5).astype(np.uint8)


def _over_image(shares: npt.NDArray[np.float32], spec: InputSpec, height: int, width: int) -> npt.NDArray[Any]:
    """Return a map of the tensor's places as one of the image's: what `preprocess` did to the image, undone."""
    if isinstance(spec.fit, CropFit | PadFit):
        canvas = cv2.resize(shares, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)
        sides, (top, left) = scaled_sides(height, width, spec)
        if isinstance(spec.fit, CropFit):
            shares = np.zeros(sides, np.float32)
            shares[top : top + spec.height, left : left + spec.width] = canvas
        else:
            shares = np.ascontiguousarray(canvas[top : top + sides[0], left : left + sides[1]])
    return np.clip(cv2.resize(shares, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


class HeatmapFolder:
    """A folder of overlays: for folder/x.png the file FOLDER/folder/x.png.heatmap.png, of the class that was called.

    Raises:
        UsageError: The model gives no heatmaps.
    """

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        if spec.graph is None or HEATMAP not in spec.graph.extra_outputs:
            raise UsageError(
                f"{spec.name} gives no heatmaps", hint="Export it again: medexport onnx ckpt.pt --heatmap."
            )
        self.folder = folder
        self.spec = spec

    def write(self, item: ImageSource, prediction: Prediction) -> None:
        """Write one image's overlay, whole or not at all; nothing for an image that could not be used."""
        if prediction.error is not None or prediction.heatmaps is None:
            return
        try:
            image = read_image(item, self.spec.input)
        except ImageError:
            return  # it has gone since it was answered
        drawn = overlay(image, prediction.heatmaps[prediction.label], self.spec.input)
        _, encoded = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        path = self.path(prediction.source or "image")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, binary=True) as file:
            file.write(encoded.tobytes())

    def path(self, source: str) -> Path:
        """Return the overlay's path, which lies below the folder whatever the image's own path is."""
        _, rest = os.path.splitdrive(source)
        parts = ["up" if part == os.pardir else part for part in Path(rest).parts if part not in (os.sep, os.curdir)]
        return self.folder.joinpath(*parts[:-1], f"{parts[-1]}.heatmap.png")

    def drawn(
        self, items: Iterable[ImageSource], predict: Callable[[Iterable[ImageSource]], Iterator[Prediction]]
    ) -> Iterator[Prediction]:
        """Pass on what `predict(items)` yields, each once its overlay is written; no more is held than is in flight."""
        asked, again = tee(items)
        for item, prediction in zip(again, predict(asked), strict=False):
            self.write(item, prediction)
            yield prediction
