"""What the epochs so far say about the next: rates, freezing, the best epoch, stopping.

Pure functions of the recipe and the history. None keeps state, so a resumed run cannot differ in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from medtrain.recipe import Training

History = Sequence[Mapping[str, float]]


def learning_rate(training: Training, step: int, steps: int, history: History = ()) -> float:
    """Return the head's rate at a step of `steps` in all; `history` has a row for each finished epoch."""
    if training.schedule == "cosine":
        return training.learning_rate * cosine(step, steps, training.warmup)
    if training.schedule == "plateau":
        return training.learning_rate * plateau_factor(training, history)
    return training.learning_rate


def cosine(step: int, steps: int, warmup: float) -> float:
    """Rise linearly to 1 over a share `warmup` of all steps, then follow half a cosine down to 0."""
    rising = warmup * steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def plateau_factor(training: Training, history: History) -> float:
    """Return what reduce-on-plateau has multiplied the rate by: it watches the figure that chooses the best epoch.

    Counted as Keras's ReduceLROnPlateau does, without cooldown: better means by more than `min_delta`.
    """
    plateau = training.plateau
    factor, best, waited = 1.0, -math.inf, 0
    for row in history:
        if _merit(training, row) > best + plateau.min_delta:
            best, waited = _merit(training, row), 0
            continue
        waited += 1
        if waited >= plateau.patience:
            factor, waited = factor * plateau.factor, 0
    return factor


def is_frozen(training: Training, epoch: int) -> bool:
    """Tell whether the backbone keeps its weights in an epoch (counted from 0)."""
    return epoch < training.frozen_epochs


def best_epoch(training: Training, history: History) -> int:
    """Return the index of the best epoch: by the figure that the recipe selects, then by the loss, then the first."""

    return max(range(len(history)), key=lambda i: (_merit(training, history[i]), -history[i]["validation_loss"], -i))


def is_over(training: Training, history: History) -> bool:
    """Tell whether training ends here: all epochs done, or none better for `early_stopping` epochs."""
    if len(history) >= training.epochs:
        return True
    patience = training.early_stopping
    return bool(patience and history) and len(history) - 1 - best_epoch(training, history) >= patience


def _merit(training: Training, row: Mapping[str, float]) -> float:
    """Return the figure that the recipe selects by; more is better."""
    return -row["validation_loss"] if training.select == "loss" else row[f"validation_{training.select}"]
