"""The part of the contract that is chosen on validation images: a temperature, thresholds, limits for abstaining."""

from __future__ import annotations

from typing import Literal

from medinfer.schema import Schema, require, schema

# The output of a graph that tells outliers: one float for each image.
OOD_SCORE = "ood_score"


@schema
class Calibration(Schema):
    """Probabilities are softmax(logits / temperature); the `logits` output stays raw."""

    temperature: float = 1.0

    def check(self) -> None:
        """Check the range."""
        require(self.temperature > 0, "temperature", f"{self.temperature} is not positive")


@schema
class Target(Schema):
    """What a threshold was chosen for; `youden` (maximal sensitivity + specificity - 1) has no value."""

    metric: Literal["sensitivity", "specificity", "youden"]
    value: float | None = None

    def check(self) -> None:
        """Check that a value is there exactly where the metric needs one."""
        require((self.value is None) == (self.metric == "youden"), "value", f"{self.value} for {self.metric}")
        require(self.value is None or 0 < self.value <= 1, "value", f"{self.value} is not within (0, 1]")


@schema
class OperatingPoint(Schema):
    """A decision rule: positive if p(positive) >= threshold; intervals are 95 %."""

    name: str
    positive: tuple[str, ...]
    threshold: float
    comparison: Literal[">="] = ">="
    target: Target
    sensitivity: float
    sensitivity_interval: tuple[float, float]
    specificity: float
    specificity_interval: tuple[float, float]

    def check(self) -> None:
        """Check that everything that is a proportion lies in [0, 1] and every interval is in order."""
        require(bool(self.name), "name", "empty")
        require(bool(self.positive), "positive", "empty")
        for name in ("threshold", "sensitivity", "specificity"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, f"{value} is not within [0, 1]")
        for name in ("sensitivity_interval", "specificity_interval"):
            low, high = getattr(self, name)
            require(0 <= low <= high <= 1, name, f"[{low}, {high}] is not an interval within [0, 1]")


@schema
class Conformal(Schema):
    """Prediction sets: the classes whose probability is at least the threshold of each, in output order.

    For images drawn like those that the thresholds were chosen on, so many as `images` says, the set holds the true
    class at least as often as `coverage` says, on average over such choices; `per_class`, for each class by itself
    (Sadinle, M. et al. (2019): Least ambiguous set-valued classifiers with bounded error levels).
    """

    coverage: float
    per_class: bool = False
    thresholds: tuple[float, ...]
    images: int

    def check(self) -> None:
        """Check the ranges."""
        require(0 < self.coverage < 1, "coverage", f"{self.coverage} is not within (0, 1)")
        require(self.images >= 1, "images", f"{self.images} is less than 1")
        for i, value in enumerate(self.thresholds):
            require(0 <= value <= 1, f"thresholds[{i}]", f"{value} is not within [0, 1]")


@schema
class Outliers(Schema):
    """An image is out of distribution if its score, the graph's output `ood_score`, is over the threshold.

    `residual` is the share of the features' square that lies outside the directions in which those of training images
    vary (after Wang, H. et al. (2022): ViM). `in_distribution` is the share of images like the training's that shall be
    within.
    """

    score: Literal["residual"] = "residual"
    threshold: float
    in_distribution: float

    def check(self) -> None:
        """Check the range."""
        require(0 < self.in_distribution < 1, "in_distribution", f"{self.in_distribution} is not within (0, 1)")


@schema
class Abstention(Schema):
    """When not to answer; applied where it is asked for."""

    conformal: Conformal
    outliers: Outliers
