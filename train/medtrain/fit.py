"""`medtrain fit`: recipe + folder -> ckpt.pt, metrics.json, splits.csv, and last.pt to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medinfer import __version__
from medinfer.agreement import softmax
from medinfer.command import tell
from medinfer.errors import CheckpointError, UsageError
from medinfer.files import atomic_file
from medinfer.metrics import as_text, measure
from medinfer.progress import Progress
from medinfer.spec import ModelSpec, Provenance
from medtrain.checkpoint import CHECKPOINT_FORMAT, Checkpoint, load, save, save_checkpoint
from medtrain.dataset import Dataset, load_dataset, load_tensors, write_splits
from medtrain.loop import Interval, Trainer
from medtrain.network import Classifier, NetworkConfig, build_network, load_weights, network_config, predict_logits
from medtrain.phantom import write_phantom
from medtrain.recipe import Recipe, describe

RESULTS = ("ckpt.pt", "last.pt", "metrics.json", "splits.csv")
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what to compute."""

    out: Path
    resume: bool = False
    overwrite: bool = False
    save_seconds: float = 60.0
    device: str = "cpu"
    quiet: bool = False


def fit(data: Path | None, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train and return the metrics that are also in metrics.json.

    Args:
        data: Folder of images; None draws the phantom into `options.out`.
        recipe: What to do.
        options: Where to, and how.

    Raises:
        UsageError: The data or the request is refused.
        CheckpointError: `last.pt` cannot be resumed from.
        DivergenceError: The loss is no longer finite.
        ResourceError: The disk is full.
    """
    start = time.monotonic()
    saved = _saved_state(options)
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(data, recipe, options)
    if saved:
        _check_same_run(saved, recipe, dataset)
        if saved["finished"]:
            tell(f"{options.out / 'last.pt'}: this run is finished; nothing to do.")
            return dict(json.loads((options.out / "metrics.json").read_text(encoding="utf-8")))
    write_splits(dataset, options.out / "splits.csv")
    created = saved["created"] if saved else datetime.now(UTC).isoformat(timespec="seconds")
    run = _Run(dataset, recipe, options, created)
    run.train(saved)
    measured = run.finish(time.monotonic() - start)
    if not options.quiet:
        tell(f"\nTest set ({measured['test']['images']} images):\n{as_text(measured['test'])}")
    return measured


def _saved_state(options: Options) -> dict[str, Any] | None:
    """Return what --resume goes on from; refuse to write over an earlier run unasked."""
    last = options.out / "last.pt"
    if options.resume:
        if not last.exists() and not (options.out / "ckpt.pt").exists():
            return None  # killed before the first save: starting is resuming
        return load(last)
    present = [name for name in RESULTS if (options.out / name).exists()]
    if present and not options.overwrite:
        hint = "Pass --resume to go on, --overwrite to start afresh, or --out another folder."
        raise UsageError(f"{options.out}: holds {', '.join(present)} of an earlier run", hint=hint)
    for name in present:
        (options.out / name).unlink()
    return None


def _dataset(data: Path | None, recipe: Recipe, options: Options) -> Dataset:
    if data is None:
        data = options.out / "phantom"
        with Progress("Drawing the phantom", unit="files", enabled=not options.quiet):
            write_phantom(data)
    with Progress("Reading", unit="files", enabled=not options.quiet) as progress:
        dataset = load_dataset(data, recipe.data, recipe.training.seed, progress.step)
    if not options.quiet:
        counts = ", ".join(f"{len(dataset.split(name))} {name}" for name in ("train", "validation", "test"))
        aside = len(dataset.split("set-aside"))
        note = f"; {aside} set aside (copies across labels or into the test folder)" if aside else ""
        tell(f"{recipe.name}: {', '.join(dataset.classes)}; {counts}{note}")
    return dataset


def _check_same_run(saved: Mapping[str, Any], recipe: Recipe, dataset: Dataset) -> None:
    hint = "Start afresh with --overwrite, or in another folder with --out."
    try:
        if saved["recipe"] != describe(recipe):
            raise UsageError("last.pt was trained by another recipe", hint=hint)
        if saved["data_sha256"] != dataset.sha256:
            raise UsageError(f"{dataset.root}: not the images that last.pt was trained on", hint=hint)
    except KeyError as error:
        raise CheckpointError(f"last.pt lacks {error}", hint=hint) from None


class _Run:
    """One run's parts: they are made once, and what is written is made from them."""

    def __init__(self, dataset: Dataset, recipe: Recipe, options: Options, created: str) -> None:
        self.dataset, self.recipe, self.options, self.created = dataset, recipe, options, created
        self.spec = _spec(dataset, recipe, created)
        self.config = network_config(
            recipe.network.arch,
            classes=len(dataset.classes),
            in_channels=recipe.input.channels,
            dropout=recipe.network.dropout,
        )
        self.classifier = _new_classifier(self.config, recipe).to(options.device)
        self.trainer = Trainer(self.classifier, recipe, self._load("train"), self._load("validation"))

    def train(self, saved: Mapping[str, Any] | None) -> None:
        """Run the loop to its end, saving as it goes."""
        if saved:
            self.trainer.restore(saved["trainer"])
        training, due = self.recipe.training, Interval(self.options.save_seconds)
        steps = training.epochs * self.trainer.batches
        with Progress("Training", steps, unit="batches", enabled=not self.options.quiet) as progress:
            done = self.trainer.progress.epoch * self.trainer.batches + self.trainer.progress.batch
            progress.step(done)

            def on_batch(loss: float) -> None:
                progress.step(note=f"loss {loss:.3f}")
                if due.is_due():
                    self._save_last(finished=False)

            def on_epoch() -> None:
                self._report_epoch()
                if self.trainer.progress.best_epoch == self.trainer.progress.epoch - 1:
                    self._save_best({})
                self._save_last(finished=False)

            self.trainer.run(on_batch, on_epoch)

    def finish(self, seconds: float) -> dict[str, Any]:
        """Measure the best weights on validation and test images, and write the results."""
        self.classifier.load_state_dict(self.trainer.progress.best_state)
        measured: dict[str, Any] = {name: self._measure(name) for name in ("validation", "test")}
        measured["best_epoch"] = self.trainer.progress.best_epoch + 1
        measured["history"] = self.trainer.progress.history
        self._save_best({name: measured[name] for name in ("validation", "test")})
        with atomic_file(self.options.out / "metrics.json") as file:
            json.dump({**measured, "seconds": round(seconds, 1)}, file, indent=2)
        self._save_last(finished=True)
        return measured

    def _load(self, split: str) -> tuple[Any, Any]:
        samples = self.dataset.split(split)
        with Progress(f"Decoding {split}", len(samples), enabled=not self.options.quiet) as progress:
            return load_tensors(samples, self.recipe.input, progress.step), self.dataset.labels(samples)

    def _measure(self, split: str) -> dict[str, Any]:
        images, labels = self.trainer.validation if split == "validation" else self._load(split)
        probabilities = softmax(predict_logits(self.classifier, images), self.spec.calibration.temperature)
        return measure(labels, probabilities, self.dataset.classes, self.recipe.positive)

    def _report_epoch(self) -> None:
        row = self.trainer.progress.history[-1]
        if not self.options.quiet:
            tell(
                f"\repoch {row['epoch']}/{self.recipe.training.epochs}  loss {row['train_loss']:.4f}  "
                f"validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.4f}"
            )

    def _save_best(self, metrics: Mapping[str, Any]) -> None:
        checkpoint = Checkpoint(
            spec=self.spec,
            network=self.config,
            recipe=describe(self.recipe),
            split_sha256=self.dataset.sha256,
            metrics=metrics,
            state_dict=self.trainer.progress.best_state,
        )
        save_checkpoint(checkpoint, self.options.out / "ckpt.pt")

    def _save_last(self, *, finished: bool) -> None:
        state = {
            "medtrain_format": CHECKPOINT_FORMAT,
            "created": self.created,
            "recipe": describe(self.recipe),
            "data_sha256": self.dataset.sha256,
            "finished": finished,
            "trainer": self.trainer.state(),
        }
        save(state, self.options.out / "last.pt")


def _new_classifier(config: NetworkConfig, recipe: Recipe) -> nn.Module:
    torch.manual_seed(recipe.training.seed)
    network = build_network(config)
    load_weights(network, config, recipe.network.weights)
    return Classifier(network, recipe.input.mean, recipe.input.std)


def _spec(dataset: Dataset, recipe: Recipe, created: str) -> ModelSpec:
    provenance = Provenance(
        recipe=recipe.name, data_sha256=dataset.sha256, created=created, versions=_installed_versions()
    )
    return ModelSpec(
        name=recipe.name,
        classes=dataset.classes,
        task="binary" if len(dataset.classes) == 2 else "multiclass",
        positive=recipe.positive,
        input=recipe.input,
        provenance=provenance,
    )


def _installed_versions() -> dict[str, str]:
    versions = {"medonnx": __version__}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
