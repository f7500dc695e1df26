"""Yes or no: a threshold on the probability of the positive classes, and what it decides on an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from medinfer.errors import UsageError
from medinfer.prediction import Prediction
from medinfer.spec import ModelSpec


@dataclass(frozen=True)
class Rule:
    """Positive if p(positive), the sum over the positive classes, is at least the threshold."""

    key: ClassVar = "decision"
    width: ClassVar = len("positive")

    name: str
    positive: tuple[str, ...]
    threshold: float

    def decide(self, prediction: Prediction) -> Decision:
        """Return what the rule says of an image; raises the prediction's error if it has none."""
        probabilities = prediction.probabilities
        score = sum(probabilities[name] for name in self.positive)
        return Decision(rule=self.name, probability=score, positive=score >= self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return what a results file tells of it."""
        return {"name": self.name, "positive": list(self.positive), "threshold": self.threshold}


@dataclass(frozen=True)
class Decision:
    """One image's yes or no, and the rule that made it."""

    rule: str
    probability: float
    """p(positive)."""
    positive: bool

    @property
    def word(self) -> str:
        """Yes or no, as a table shows it."""
        return "positive" if self.positive else "negative"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"rule": self.rule, "p_positive": round(self.probability, 6), "positive": self.positive}


def find_rule(spec: ModelSpec, operating_point: str | None = None, threshold: float | None = None) -> Rule | None:
    """Return the rule of an operating point of the contract, or of a threshold; None if neither is named.

    Raises:
        UsageError: Both are named; the contract has no such point or no positive classes; the threshold is no
            probability.
    """
    if operating_point is not None and threshold is not None:
        raise UsageError("an operating point has its own threshold", hint="Name one or the other.")
    if operating_point is not None:
        known = {point.name: point for point in spec.operating_points}
        if operating_point not in known:
            hint = (
                f"There is {', '.join(known)}." if known else "None was stored: --threshold names a rule of your own."
            )
            raise UsageError(f"{spec.name} has no operating point {operating_point!r}", hint=hint)
        point = known[operating_point]
        return Rule(point.name, point.positive, point.threshold)
    if threshold is None:
        return None
    if not spec.positive:
        raise UsageError(f"{spec.name} names no positive classes, so there is nothing to hold a threshold to")
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold: {threshold} is not within [0, 1]")
    return Rule(f"threshold {threshold:g}", spec.positive, threshold)
