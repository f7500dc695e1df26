"""`medtrain fit`: recipe + folder -> ckpt.pt, report.html, metrics.json, splits.csv, and last.pt to go on from."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medinfer import __version__
from medinfer.command import tell
from medinfer.errors import CheckpointError, ResourceError, SpecError, UsageError
from medinfer.evaluation import as_text
from medinfer.files import atomic_file
from medinfer.interruption import Interruption
from medinfer.progress import Progress
from medinfer.spec import ModelSpec, Provenance
from medtrain.checkpoint import CHECKPOINT_FORMAT, Checkpoint, load, save, save_checkpoint
from medtrain.curves import Curves
from medtrain.dataset import MEMORY_BUDGET, Dataset, Examples, load_dataset, load_examples, write_splits
from medtrain.evaluate import answer, decide, evaluate
from medtrain.layout import SPLITS
from medtrain.loop import Interval, Trainer
from medtrain.network import Classifier, NetworkConfig, build_network, network_config
from medtrain.outliers import learn_outliers
from medtrain.phantom import write_phantom
from medtrain.processes import Process
from medtrain.recipe import Recipe, describe
from medtrain.report import Report
from medtrain.weights import load_weights

RESULTS = ("ckpt.pt", "last.pt", "metrics.json", "report.html", "splits.csv")
STATE_KEYS = {"created", "torch", "recipe", "data_sha256", "finished", "seconds", "trainer"}
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "simplejpeg", "pillow")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what to compute: but for the device and the processes none changes a number."""

    out: Path
    resume: bool = False
    overwrite: bool = False
    save_seconds: float = 60.0
    device: str = "cpu"
    workers: int | None = None
    memory: int = MEMORY_BUDGET
    tensorboard: bool = False
    quiet: bool = False
    process: Process = field(default_factory=Process)
    interruption: Interruption = field(default_factory=lambda: Interruption(enabled=False))

    @property
    def speaks(self) -> bool:
        """Whether this process tells a person what it does."""
        return not self.quiet and self.process.is_first


def fit(data: Path | None, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train and return the metrics that are also in metrics.json.

    Args:
        data: Folder of images or .csv manifest; None draws the phantom into `options.out`.
        recipe: What to do.
        options: Where to, and how.

    Raises:
        UsageError: The data or the request is refused.
        CheckpointError: `last.pt` cannot be resumed from.
        DivergenceError: The loss is no longer finite.
        ResourceError: The disk or the memory is full.
    """
    start = time.monotonic()
    _refuse_earlier_results(data, recipe, options)
    saved = _saved_state(options)
    options.process.same_for_all(0)  # nobody writes before all have looked
    dataset = _dataset(data, recipe, options)
    _check_positive(recipe, dataset)
    if saved:
        _check_same_run(saved, recipe, dataset)
        if saved["finished"]:
            if options.speaks:
                tell(f"{options.out / 'last.pt'}: this run is finished; nothing to do.")
            return dict(json.loads((options.out / "metrics.json").read_text(encoding="utf-8")))
    try:
        run = _Run(dataset, recipe, options, saved)
        run.train()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        hint = "Lower training.batch_size; the last save is whole."
        message = f"the {options.device} has no memory for batches of {recipe.training.batch_size}"
        raise ResourceError(message, hint=hint) from None
    measured = run.finish(start)
    if options.speaks:
        test = measured["test"]
        tell(f"\nTest set ({test['images']} images):\n{as_text(test)}")
    return measured


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: on a CPU torch says so in a RuntimeError's words alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _refuse_earlier_results(data: Path | None, recipe: Recipe, options: Options) -> None:
    """Refuse to write over an earlier run unasked, and over what this one reads in any case."""
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite contradict each other", hint="Pass one of them.")
    results = {name: options.out / name for name in RESULTS}
    for read in (data, Path(recipe.network.weights)):
        if read is not None and any(read.resolve() == path.resolve() for path in results.values()):
            hint = "Name another folder with --out."
            raise UsageError(f"{read}: this run would write over what it reads", hint=hint)
    present = [name for name, path in results.items() if path.exists()]
    if present and not (options.resume or options.overwrite):
        hint = "Pass --resume to go on, --overwrite to start afresh, or --out another folder."
        raise UsageError(f"{options.out}: holds {', '.join(present)} of an earlier run", hint=hint)


def _saved_state(options: Options) -> dict[str, Any] | None:
    """Return what --resume goes on from."""
    last = options.out / "last.pt"
    if not options.resume:
        return None
    if not last.exists():
        # Killed before the first save: starting is resuming.
        if options.speaks:
            tell(f"Note: there is no {last} to go on from; starting at the beginning.")
        return None
    return load(last)


def _check_positive(recipe: Recipe, dataset: Dataset) -> None:
    missing = set(recipe.positive) - set(dataset.classes)
    if missing:
        hint = f"The classes are {', '.join(dataset.classes)}; correct the recipe's positive."
        raise UsageError(f"positive: no class {', '.join(sorted(missing))} in {dataset.data}", hint=hint)


def _dataset(data: Path | None, recipe: Recipe, options: Options) -> Dataset:
    if data is None:
        data = options.out / "phantom"
        if options.process.is_first:
            options.out.mkdir(parents=True, exist_ok=True)
            with Progress("Drawing the phantom", unit="files", enabled=options.speaks):
                write_phantom(data)
        options.process.same_for_all(0)
    with Progress("Checking", enabled=options.speaks) as progress:
        dataset = load_dataset(data, recipe.data, recipe.input, recipe.training.seed, progress)
    if options.speaks:
        counts = ", ".join(f"{len(dataset.split(name))} {name}" for name in SPLITS)
        tell(f"{recipe.name}: {', '.join(dataset.classes)}; {counts}")
        for finding in dataset.findings:
            if finding.severity == "warning":
                tell(f"Warning: {finding.message}.")
        if any(finding.severity == "warning" for finding in dataset.findings):
            tell(f"Details: medtrain check {data}")
    return dataset


def _check_same_run(saved: Mapping[str, Any], recipe: Recipe, dataset: Dataset) -> None:
    hint = "Start afresh with --overwrite, or in another folder with --out."
    missing = STATE_KEYS - set(saved)
    if missing:
        raise CheckpointError(f"last.pt lacks {', '.join(sorted(missing))}", hint=hint)
    changed = _first_difference(_completed(saved["recipe"]), describe(recipe))
    if changed:
        raise UsageError(f"last.pt was trained by another recipe: {changed} differs", hint=hint)
    if saved["data_sha256"] != dataset.sha256:
        raise UsageError(f"{dataset.data}: not the images that last.pt was trained on", hint=hint)
    if saved["torch"] != torch.__version__:
        tell(f"Note: last.pt was saved by torch {saved['torch']}; this one may round otherwise.")


def _completed(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved recipe with the defaults of what recipes had not yet when it was saved."""
    try:
        return describe(Recipe.from_json(saved))
    except SpecError:
        return saved


def _first_difference(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> str:
    """Return the dotted name of a field that differs, or nothing; what a recipe says of itself decides no number."""
    for key in sorted(set(saved) | set(wanted)):
        first, second = saved.get(key), wanted.get(key)
        if first == second or path + key in ("title", "about", "card"):
            continue
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            return _first_difference(first, second, f"{path}{key}.")
        return path + key
    return ""


class _Run:
    """One run's parts: they are made once, and what is written is made from them."""

    def __init__(self, dataset: Dataset, recipe: Recipe, options: Options, saved: Mapping[str, Any] | None) -> None:
        self.dataset, self.recipe, self.options = dataset, recipe, options
        self.created = saved["created"] if saved else datetime.now(UTC).isoformat(timespec="seconds")
        self.seconds = saved["seconds"] if saved else 0.0
        self.start = time.monotonic()
        self.spec = _spec(dataset, recipe, self.created)
        self.config = network_config(recipe.network, recipe.input, classes=len(dataset.classes))
        self.classifier = new_classifier(self.config, recipe, start=saved is None).to(options.device)
        self.trainer = Trainer(
            self.classifier,
            recipe,
            self._load("train"),
            self._load("validation"),
            process=options.process,
            workers=options.workers,
        )
        if saved:
            self.trainer.restore(saved["trainer"])
        elif options.process.is_first:
            self._clear()

    def _clear(self) -> None:
        """Make room for the results, now that nothing stands in the way of getting some."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        for name in RESULTS:
            (self.options.out / name).unlink(missing_ok=True)
        write_splits(self.dataset, self.options.out / "splits.csv")

    def train(self) -> None:
        """Run the loop to its end, saving as it goes."""
        trainer, options = self.trainer, self.options
        due = Interval(options.save_seconds)
        steps = self.recipe.training.epochs * trainer.batches
        with (
            options.interruption as interruption,
            Curves(options.out, enabled=options.tensorboard and options.process.is_first) as curves,
            Progress("Training", steps, unit="batches", enabled=options.speaks) as progress,
        ):
            progress.step(trainer.progress.epoch * trainer.batches + trainer.progress.batch)

            def save(*, now: bool) -> None:
                leaves = options.process.same_for_all(interruption.requested) > 0
                if leaves or now:
                    self._save_last(finished=False)
                if leaves:
                    interruption.leave()

            def on_batch(loss: float) -> None:
                progress.step(note=f"loss {loss:.3f}")
                save(now=due.is_due())

            def on_epoch() -> None:
                self._report_epoch()
                curves.add(trainer.progress.history[-1])
                # last.pt first: it holds the best weights too, so a run killed in between goes on.
                save(now=True)
                if trainer.best_epoch == trainer.progress.epoch - 1:
                    self._save_best({}, self.trainer.progress.best_state)

            trainer.run(on_batch, on_epoch)

    def finish(self, start: float) -> dict[str, Any]:
        """Measure the best weights on validation and test images, and write the results."""
        seconds = self.seconds + time.monotonic() - start
        self.classifier.load_state_dict(self.trainer.progress.best_state)
        if self.recipe.decisions.coverage:
            self.config = learn_outliers(self.classifier, self.config, self.trainer.train.images)
        examples = {"validation": self.trainer.validation, "test": self._load("test")}
        answers = {name: answer(self.classifier, loaded, self.dataset.split(name)) for name, loaded in examples.items()}
        self.spec = decide(self.spec, answers["validation"], answers["test"], self.recipe.decisions)
        measured: dict[str, Any] = {name: evaluate(found, self.spec) for name, found in answers.items()}
        # They were chosen on these very images, so what they do there proves nothing.
        for chosen in ("operating_points", "abstention"):
            measured["validation"].pop(chosen, None)
        measured["best_epoch"] = self.trainer.best_epoch + 1
        measured["history"] = self.trainer.progress.history
        measured["data"] = self.dataset.summary()
        state = {name: value.detach().cpu() for name, value in self.classifier.state_dict().items()}
        self._save_best({name: measured[name] for name in ("validation", "test")}, state)
        if self.options.process.is_first:
            with atomic_file(self.options.out / "metrics.json") as file:
                json.dump({**measured, "seconds": round(seconds, 1)}, file, indent=2)
            report = Report(
                spec=self.spec,
                recipe=self.recipe,
                measured=measured,
                train=self.trainer.train,
                test=examples["test"],
                answers=answers["test"],
            )
            report.write(self.options.out / "report.html")
        self._save_last(finished=True)
        return measured

    def _load(self, split: str) -> Examples:
        with Progress(f"Decoding {split}", len(self.dataset.split(split)), enabled=self.options.speaks) as progress:
            return load_examples(self.dataset, split, self.recipe.input, budget=self.options.memory, step=progress.step)

    def _report_epoch(self) -> None:
        row = self.trainer.progress.history[-1]
        if self.options.speaks:
            tell(
                f"\repoch {row['epoch']}/{self.recipe.training.epochs}  loss {row['train_loss']:.4f}  validation: "
                f"loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.4f}  "
                f"AUC {row['validation_auc']:.4f}"
            )

    def _save_best(self, metrics: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
        if not self.options.process.is_first:
            return
        checkpoint = Checkpoint(
            spec=self.spec,
            network=self.config,
            recipe=describe(self.recipe),
            split_sha256=self.dataset.sha256,
            data=self.dataset.summary(),
            metrics=metrics,
            state_dict=state,
        )
        save_checkpoint(checkpoint, self.options.out / "ckpt.pt")

    def _save_last(self, *, finished: bool) -> None:
        if not self.options.process.is_first:
            return
        state = {
            "medtrain_format": CHECKPOINT_FORMAT,
            "created": self.created,
            "torch": str(torch.__version__),
            "recipe": describe(self.recipe),
            "data_sha256": self.dataset.sha256,
            "finished": finished,
            "seconds": self.seconds + time.monotonic() - self.start,
            "trainer": self.trainer.state(),
        }
        save(state, self.options.out / "last.pt")


def new_classifier(config: NetworkConfig, recipe: Recipe, *, start: bool = True) -> Classifier:
    """Build what is trained, with the recipe's weights unless others will replace them.

    Raises:
        UsageError: The recipe's network cannot be built, does not take its input, or has no such weights.
    """
    torch.manual_seed(recipe.training.seed)
    try:
        network = build_network(config)
    except CheckpointError as error:
        raise UsageError(f"network: {error.message}", hint=error.hint) from None
    classifier = Classifier(network, recipe.input.mean, recipe.input.std)
    _try_out(classifier, config, recipe)
    if start:
        load_weights(network, config, recipe.network.weights)
    return classifier


def _try_out(classifier: nn.Module, config: NetworkConfig, recipe: Recipe) -> None:
    """Run two black pictures through a copy: some networks want a size of their own, or do not answer logits."""
    pixels = torch.zeros(2, config.in_channels, recipe.input.height, recipe.input.width, dtype=torch.uint8)
    try:
        answer: Any = copy.deepcopy(classifier).train()(pixels)
        reason = "" if isinstance(answer, torch.Tensor) and answer.shape == (2, config.head.classes) else "no logits"
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
    if reason:
        size = f"{recipe.input.width}x{recipe.input.height}"
        hint = "Change input.width and input.height, or network.arch."
        raise UsageError(f"network: {config.arch} does not take pictures of {size}: {reason}", hint=hint)


def _spec(dataset: Dataset, recipe: Recipe, created: str) -> ModelSpec:
    name = f"{recipe.name} ({recipe.variant})" if recipe.variant else recipe.name
    provenance = Provenance(recipe=name, data_sha256=dataset.sha256, created=created, versions=_installed_versions())
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
