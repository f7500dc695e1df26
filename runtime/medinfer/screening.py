"""When not to answer: a set of classes instead of one, and images unlike those that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medinfer.errors import UsageError
from medinfer.prediction import Prediction
from medinfer.spec import Abstention, ModelSpec

Status = Literal["ok", "uncertain", "out_of_distribution"]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Screening:
    """What may be said of one image."""

    status: Status
    """`ok` where the set holds the most probable class and no other; else `uncertain`, if not `out_of_distribution`."""
    classes: tuple[str, ...]
    """The conformal set: the classes that the image may belong to, in output order; it can be empty."""
    ood_score: float
    """Higher is less like the training's images."""

    @property
    def word(self) -> str:
        """The status, as a table shows it."""
        return self.status

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"status": self.status, "set": list(self.classes), "ood_score": round(self.ood_score, 6)}


@dataclass(frozen=True)
class Screen:
    """A contract's limits, ready to be applied. Made by `find_screen`."""

    key: ClassVar = "screening"
    width: ClassVar = len("out_of_distribution")

    limits: Abstention

    def decide(self, prediction: Prediction) -> Screening:
        """Return what may be said of an image; raises the prediction's error if it has none."""
        likely, score = prediction.probabilities, prediction.ood_score
        if score is None:
            raise UsageError("the prediction holds no score of how unlike the training's the image is")
        found = apply(self.limits, np.array([list(likely.values())]), np.array([score]))
        inside = tuple(name for name, belongs in zip(likely, found.sets[0], strict=True) if belongs)
        return Screening(str(found.status[0]), inside, score)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return what a results file tells of it."""
        return self.limits.to_json()


class Screened(NamedTuple):
    """What a contract's limits say of several images."""

    sets: Array
    """The conformal sets, bool (n, classes)."""
    status: Array
    """As in `Screening`, str (n,)."""


def apply(limits: Abstention, probabilities: Array, scores: Array) -> Screened:
    """Apply limits to several images.

    Args:
        limits: The contract's.
        probabilities: As the contract calibrates them, (n, classes).
        scores: How unlike the training's each image is, (n,).
    """
    sets = probabilities >= np.array(limits.conformal.thresholds)
    # With a threshold for each class, the one class of a set need not be the most probable one.
    alone = (sets.sum(axis=1) == 1) & sets[np.arange(len(sets)), probabilities.argmax(axis=1)]
    sure = np.where(alone, "ok", "uncertain")
    return Screened(sets, np.where(scores > limits.outliers.threshold, "out_of_distribution", sure))


def find_screen(spec: ModelSpec) -> Screen:
    """Return the limits of a contract; raises UsageError if it has none."""
    if spec.abstention is None:
        hint = "It was trained with coverage = 0 in the recipe's [decisions], or by an earlier medtrain."
        raise UsageError(f"{spec.name} says nothing of when to abstain", hint=hint)
    return Screen(spec.abstention)
