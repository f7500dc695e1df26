"""The training loop: plain, and bit-exact when resumed after a kill at any moment.

What a step does is a function of (seed, epoch, batch) and of the state saved: the order of the images is drawn from
(seed, epoch), an image's augmentation from (seed, epoch, index), the learning rate from the step's number; dropout
takes torch's generator, whose state is saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medinfer.errors import DivergenceError
from medinfer.stream import ordered_map
from medtrain.augment import augment
from medtrain.network import predict_logits, to_tensor
from medtrain.recipe import Recipe, Training

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
AUGMENT_WORKERS = 2


@dataclass
class Progress:
    """How far a run has come, and the best it has found."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_state: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """One training run.

    Args:
        classifier: Pixels in, logits out; on the device to train on.
        recipe: What to do.
        train: Images uint8 (n, H, W, C) and class indices (n,).
        validation: The same, for choosing the best epoch.
    """

    def __init__(
        self,
        classifier: nn.Module,
        recipe: Recipe,
        train: tuple[Images, Labels],
        validation: tuple[Images, Labels],
    ) -> None:
        self.classifier = classifier.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.images, self.labels = train
        self.validation = validation
        self.device = next(classifier.parameters()).device
        self.optimizer = _optimizer(classifier, recipe.training)
        self.progress = Progress()

    @property
    def batches(self) -> int:
        """Batches in an epoch; a last one of a single image is left out, for BatchNorm may not take it."""
        size = self.recipe.training.batch_size
        full, rest = divmod(len(self.images), size)
        return max(1, full + (rest > 1))

    def run(self, on_batch: Callable[[float], None], on_epoch: Callable[[], None]) -> None:
        """Train to the end of the recipe.

        Args:
            on_batch: Called with the loss after each batch; may save `state()`.
            on_epoch: Called after each epoch's validation; may save too.

        Raises:
            DivergenceError: The loss became NaN or infinite.
        """
        while self.progress.epoch < self.recipe.training.epochs:
            self.classifier.train()
            for images, labels in self._remaining_batches():
                on_batch(self._step(images, labels))
            self._finish_epoch()
            on_epoch()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and JSON values."""
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": dict(vars(self.progress)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` returned."""
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.progress = Progress(**state["progress"])

    def _remaining_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rest of the epoch's batches, augmented on other threads while the network runs."""
        training, epoch = self.recipe.training, self.progress.epoch
        order = np.random.default_rng([training.seed, epoch]).permutation(len(self.images))
        starts = range(self.progress.batch, self.batches)

        def make(batch: int) -> tuple[Images, Labels]:
            chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            settings = self.recipe.augment
            images = [augment(self.images[i], settings, (training.seed, epoch, int(i))) for i in chosen]
            return np.stack(images), self.labels[chosen]

        for images, labels in ordered_map(make, starts, workers=AUGMENT_WORKERS):
            yield to_tensor(images, self.device), torch.from_numpy(labels).to(self.device)

    def _step(self, images: Tensor, labels: Tensor) -> float:
        training, progress = self.recipe.training, self.progress
        rate = learning_rate(training, progress.epoch * self.batches + progress.batch, training.epochs * self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = nn.functional.cross_entropy(self.classifier(images), labels, label_smoothing=training.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss became {value} in epoch {progress.epoch + 1}, batch {progress.batch + 1} (rate {rate:.2g})",
                hint="Lower training.learning_rate; ckpt.pt holds the best epoch before.",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        progress.batch += 1
        progress.loss_sum += value * len(labels)
        progress.images += len(labels)
        return value

    def _finish_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and move on."""
        progress = self.progress
        logits = predict_logits(self.classifier, self.validation[0])
        accuracy, loss = _accuracy_and_loss(logits, self.validation[1])
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / max(1, progress.images),
            "validation_loss": loss,
            "validation_accuracy": accuracy,
        }
        progress.history.append(row)
        best = max(progress.history, key=lambda r: (r["validation_accuracy"], -r["validation_loss"]))
        if best is row:
            progress.best_epoch = progress.epoch
            progress.best_state = {name: value.detach().cpu().clone() for name, value in self._weights()}
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.images = 0, 0.0, 0

    def _weights(self) -> list[tuple[str, Tensor]]:
        return list(self.classifier.state_dict().items())


class Interval:
    """Says when the next save is due: every so many seconds, so that saving costs the same on any machine."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the time is up, and if so start it again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up over `warmup` of all steps, then half a cosine down to 0."""
    rising = training.warmup * steps
    if step < rising:
        return training.learning_rate * (step + 1) / rising if rising > 1 else training.learning_rate
    position = (step - rising) / max(1, steps - rising)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * position))


def _optimizer(classifier: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Weight decay is for matrices: on biases and BatchNorm it only shifts what they have to undo."""
    matrices = [p for p in classifier.parameters() if p.ndim > 1]
    vectors = [p for p in classifier.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    make: Any = OPTIMIZERS[training.optimizer]
    optimizer: torch.optim.Optimizer = make(groups, lr=training.learning_rate)
    return optimizer


def _accuracy_and_loss(logits: npt.NDArray[np.float32], labels: Labels) -> tuple[float, float]:
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return float(np.mean(logits.argmax(axis=1) == labels)), float(loss)
