"""What the model says of one image, or why it says nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medinfer.errors import ImageError


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One image's answer.

    Exactly one of `scores` and `error` is set; reading an answer from a prediction that failed raises its error.
    """

    source: str | None
    """The path as it was given; None for bytes and arrays."""
    classes: tuple[str, ...]
    """The model's classes, in output order."""
    scores: npt.NDArray[np.float32] | None = None
    """Probabilities, float32 (classes,)."""
    raw: npt.NDArray[np.float32] | None = None
    """Logits before calibration and softmax, float32 (classes,)."""
    residual: float | None = None
    """How unlike the training's images it is; None of a model that cannot tell."""
    maps: npt.NDArray[np.float32] | None = None
    """Where each class's logit comes from, float32 (classes, h, w); None of a model that does not tell."""
    error: ImageError | None = None
    """Why there is no answer."""
    warnings: tuple[str, ...] = ()
    """What to know of the answer: `window_fallback` (a DICOM file without a window), `few_levels` (a flat image)."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self._known(self.scores).argmax())]

    @property
    def probability(self) -> float:
        """The probability of `label`."""
        return float(self._known(self.scores).max())

    @property
    def probabilities(self) -> dict[str, float]:
        """Every class's probability, in output order."""
        return dict(zip(self.classes, self._known(self.scores).tolist(), strict=True))

    @property
    def logits(self) -> dict[str, float]:
        """Every class's raw logit, in output order."""
        return dict(zip(self.classes, self._known(self.raw).tolist(), strict=True))

    @property
    def ood_score(self) -> float | None:
        """How unlike the training's images it is, higher is less like them; None of a model that cannot tell."""
        if self.error is not None:
            raise self.error
        return None if self.residual is None else float(self.residual)

    @property
    def heatmaps(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """For each class, which places its logit comes from: float32 (h, w), whose mean is the logit less a constant.

        None of a model that does not tell: `medexport onnx --heatmap` makes one that does.
        """
        if self.error is not None:
            raise self.error
        return None if self.maps is None else dict(zip(self.classes, self.maps, strict=True))

    def _known(self, values: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        if values is None:
            raise self.error or ValueError("a prediction without an answer")
        return values

    def __repr__(self) -> str:
        where = f"{self.source!r}, " if self.source is not None else ""
        if self.error is not None:
            return f"Prediction({where}error={self.error.code!r})"
        return f"Prediction({where}{self.label!r}, {self.probability:.4f})"
