"""The training loop: plain, and bit-exact when resumed after a kill at any moment.

What a step does is a function of (seed, epoch, batch) and of the state saved: the order of the images is drawn from
(seed, epoch), an image's augmentation from (seed, epoch, index), dropout from (seed, epoch, batch, process), and the
rate from the step's number and the history. No generator's state has to survive.
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
from torch.nn.parallel import DistributedDataParallel

from medinfer.agreement import softmax
from medinfer.errors import DivergenceError, UsageError
from medinfer.metrics import macro_auc
from medinfer.stream import available_cores, ordered_map
from medtrain.augment import augment
from medtrain.dataset import Examples, Images, Labels
from medtrain.network import head_of, predict_logits, to_tensor
from medtrain.precision import Precision
from medtrain.processes import Process
from medtrain.recipe import Recipe, Training
from medtrain.schedule import best_epoch, is_frozen, is_over, learning_rate

# `fused` moves all weights in one pass over memory; torch has no such Adamax.
OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamax": torch.optim.Adamax,
    "sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
}
NAMED_IN_MESSAGES = 3


@dataclass
class Progress:
    """How far a run has come, and the best it has found."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """One training run.

    Args:
        classifier: Pixels in, logits out; on the device to train on.
        recipe: What to do.
        train: Images and their classes.
        validation: The same, for choosing the best epoch.
        process: Which of several processes this is.
        workers: Threads that augment; they change no number.
    """

    def __init__(
        self,
        classifier: nn.Module,
        recipe: Recipe,
        train: Examples,
        validation: Examples,
        *,
        process: Process | None = None,
        workers: int | None = None,
    ) -> None:
        process = process or Process()
        if recipe.training.batch_size < 2 * process.count:
            message = f"training.batch_size: {recipe.training.batch_size} is too small for {process.count} processes"
            raise UsageError(message, hint=f"At least {2 * process.count}: BatchNorm needs two images.")
        self.classifier = classifier.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.train, self.validation = train, validation
        self.process = process
        self.workers = workers or available_cores()
        self.device = next(classifier.parameters()).device
        self.optimizer = _optimizer(classifier, recipe.training)
        self.precision = Precision(recipe.training.precision, self.device)
        self.progress = Progress()
        self._weights = class_weights(train.labels, recipe.training).to(self.device)
        self._parallel = classifier
        self._frozen: bool | None = None

    @property
    def batches(self) -> int:
        """Batches in an epoch; a rest too small for BatchNorm to take on every process is left out."""
        full, rest = divmod(len(self.train.images), self.recipe.training.batch_size)
        return max(1, full + (rest >= 2 * self.process.count))

    @property
    def best_epoch(self) -> int:
        """Index of the best epoch so far."""
        return best_epoch(self.recipe.training, self.progress.history)

    @property
    def is_over(self) -> bool:
        """Whether no epoch is left to do."""
        return is_over(self.recipe.training, self.progress.history)

    def run(self, on_batch: Callable[[float], None], on_epoch: Callable[[], None]) -> None:
        """Train to the end of the recipe.

        Args:
            on_batch: Called with the loss after each batch; may save `state()`.
            on_epoch: Called after each epoch's validation; may save too.

        Raises:
            DivergenceError: The loss became NaN or infinite.
        """
        while not self.is_over:
            self._enter_epoch()
            for images, labels, chosen in self._remaining_batches():
                on_batch(self._step(images, labels, chosen))
            self._finish_epoch()
            on_epoch()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and JSON values."""
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state(),
            "progress": dict(vars(self.progress)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` returned."""
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.restore(state["scaler"])
        self.progress = Progress(**state["progress"])

    def _enter_epoch(self) -> None:
        """Set what learns: the head alone in frozen epochs, whose backbone also keeps its BatchNorm averages."""
        frozen = is_frozen(self.recipe.training, self.progress.epoch)
        self.classifier.train()
        _, head = head_of(self.classifier)
        if frozen:
            self.classifier.eval()
            head.train()
        if frozen != self._frozen:
            own = set(head.parameters())
            for parameter in self.classifier.parameters():
                parameter.requires_grad_(not frozen or parameter in own)
            # DistributedDataParallel notes what learns when it is made.
            if self.process.count > 1:
                self._parallel = DistributedDataParallel(self.classifier)
            self._frozen = frozen

    def _remaining_batches(self) -> Iterator[tuple[Tensor, Tensor, npt.NDArray[np.int64]]]:
        """Yield this process's share of the epoch's batches, augmented on other threads while the network runs."""
        training, epoch = self.recipe.training, self.progress.epoch
        order = np.random.default_rng([training.seed, epoch]).permutation(len(self.train.images))

        def make(batch: int) -> tuple[Images, Labels, npt.NDArray[np.int64]]:
            whole = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            chosen = whole[self.process.share(len(whole))]
            settings = self.recipe.augment
            images = [augment(self.train.images[i], settings, (training.seed, epoch, int(i))) for i in chosen]
            return np.stack(images), self.train.labels[chosen], chosen

        for images, labels, chosen in ordered_map(make, range(self.progress.batch, self.batches), workers=self.workers):
            yield to_tensor(images, self.device), torch.from_numpy(labels).to(self.device), chosen

    def _step(self, images: Tensor, labels: Tensor, chosen: npt.NDArray[np.int64]) -> float:
        training, progress = self.recipe.training, self.progress
        rate = self._set_rate()
        key = [training.seed, progress.epoch, progress.batch, self.process.rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        with self.precision.autocast():
            logits = self._parallel(images)
        # A sum over the batch's size, so that a process with one image more weighs no less; DDP takes the mean.
        whole = min(training.batch_size, len(self.train.images) - progress.batch * training.batch_size)
        losses = nn.functional.cross_entropy(
            logits.float(), labels, self._weights, reduction="sum", label_smoothing=training.label_smoothing
        )
        loss = losses * self.process.count / whole
        value = float(losses.detach()) / len(labels)
        if not math.isfinite(self.process.same_for_all(value if math.isfinite(value) else math.inf)):
            raise self._divergence(value, rate, chosen)
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.step(loss, self.optimizer)
        progress.batch += 1
        progress.loss_sum += value * len(labels)
        progress.correct += int((logits.detach().argmax(dim=1) == labels).sum())
        progress.images += len(labels)
        return value

    def _set_rate(self) -> float:
        training, progress = self.recipe.training, self.progress
        step, steps = progress.epoch * self.batches + progress.batch, training.epochs * self.batches
        rate = learning_rate(training, step, steps, progress.history)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    def _divergence(self, loss: float, rate: float, chosen: npt.NDArray[np.int64]) -> DivergenceError:
        names = ", ".join(self.train.names[i] for i in chosen[:NAMED_IN_MESSAGES])
        where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}"
        return DivergenceError(
            f"the loss became {loss} in {where} (rate {rate:.2g}; {len(chosen)} images, the first {names})",
            hint="Lower training.learning_rate; ckpt.pt, if there is one, holds the best epoch before.",
        )

    def _finish_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and move on."""
        progress = self.progress
        self.process.share_buffers(self.classifier)
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / max(1, progress.images),
            "train_accuracy": progress.correct / max(1, progress.images),
            **_validate(predict_logits(self.classifier, self.validation.images), self.validation.labels),
        }
        if not math.isfinite(row["validation_loss"]):
            raise DivergenceError(
                f"the validation loss became {row['validation_loss']} in epoch {progress.epoch + 1}",
                hint="Lower training.learning_rate; ckpt.pt, if there is one, holds the best epoch before.",
            )
        progress.history.append(row)
        if self.best_epoch == progress.epoch:
            state = self.classifier.state_dict().items()
            progress.best_state = {name: value.detach().cpu().clone() for name, value in state}
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.correct, progress.images = 0, 0.0, 0, 0


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


def _optimizer(classifier: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Four groups: backbone and head differ in rate, and weight decay is for matrices.

    On biases and BatchNorm, decay only shifts what they have to undo.
    """
    head = set(head_of(classifier)[1].parameters())
    groups = []
    for in_head in (False, True):
        own = [p for p in classifier.parameters() if (p in head) == in_head]
        share = 1.0 if in_head else training.backbone_rate
        for decay, chosen in (
            (training.weight_decay, [p for p in own if p.ndim > 1]),
            (0.0, [p for p in own if p.ndim <= 1]),
        ):
            groups.append({"params": chosen, "weight_decay": decay, "share": share})
    make: Any = OPTIMIZERS[training.optimizer]
    optimizer: torch.optim.Optimizer = make(groups, lr=training.learning_rate)
    return optimizer


def class_weights(labels: Labels, training: Training) -> Tensor:
    """Return one weight for each class; their mean over the training images is 1."""
    counts = np.bincount(labels)
    if training.class_weights == "none":
        return torch.ones(len(counts))
    return torch.from_numpy(len(labels) / (len(counts) * counts)).float()


def _validate(logits: npt.NDArray[np.float32], labels: Labels) -> dict[str, float]:
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    auc = macro_auc(labels, softmax(logits, 1.0)) if np.isfinite(logits).all() else None
    return {
        "validation_loss": float(loss),
        "validation_accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "validation_auc": auc if auc is not None else 0.0,
    }
