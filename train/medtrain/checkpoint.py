"""Checkpoints: tensors and JSON in one file, written whole or not at all, rebuilt with no download.

`ckpt.pt` is the best model so far and what an export starts from; `last.pt` is where an interrupted run goes on.
"""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medinfer.errors import CheckpointError, ResourceError, SpecError
from medinfer.files import atomic_file
from medinfer.spec import ModelSpec
from medtrain.network import Classifier, NetworkConfig, build_network

CHECKPOINT_FORMAT = 1
# Where training checkpoints keep a state_dict, and what stands before each name: DistributedDataParallel, Lightning,
# torch.compile, our own classifier.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
KEYS = {"medtrain_format", "spec", "network", "recipe", "split_sha256", "data", "metrics", "state_dict"}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model: its contract, its network's configuration and weights, and where it comes from."""

    spec: ModelSpec
    network: NetworkConfig
    recipe: Mapping[str, Any]
    split_sha256: str
    data: Mapping[str, Any]
    """Counts and findings: what was left out, what leaks, what was allowed."""
    metrics: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]

    def classifier(self) -> Classifier:
        """Build the network and load the weights, in evaluation mode.

        Raises:
            CheckpointError: The weights do not fit the network.
        """
        classifier = Classifier(build_network(self.network), self.spec.input.mean, self.spec.input.std)
        try:
            classifier.load_state_dict(self.state_dict)
        except (RuntimeError, TypeError, AttributeError) as error:  # of tensors that do not fit, or are none
            lines = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            raise CheckpointError(f"the weights do not fit {self.network.arch}: {lines[:400]}") from None
        return classifier.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; raises ResourceError if the disk is full, and leaves the previous file intact."""
    save(
        {
            "medtrain_format": CHECKPOINT_FORMAT,
            "spec": checkpoint.spec.to_json(),
            "network": checkpoint.network.to_json(),
            "recipe": dict(checkpoint.recipe),
            "split_sha256": checkpoint.split_sha256,
            "data": dict(checkpoint.data),
            "metrics": dict(checkpoint.metrics),
            "state_dict": dict(checkpoint.state_dict),
        },
        path,
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises CheckpointError for anything but a whole one of a known format."""
    data = load(path)
    try:
        return Checkpoint(
            spec=ModelSpec.from_json(data["spec"]),
            network=NetworkConfig.from_json(data["network"]),
            recipe=data["recipe"],
            split_sha256=data["split_sha256"],
            data=data["data"],
            metrics=data["metrics"],
            state_dict=data["state_dict"],
        )
    except KeyError as error:
        missing = ", ".join(sorted(KEYS - set(data)))
        raise CheckpointError(f"{path}: lacks {missing or error}", hint="Is it last.pt? Pass ckpt.pt.") from None
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from None


def save(data: Mapping[str, Any], path: Path) -> None:
    """Write tensors and JSON values; raises ResourceError if the disk is full."""
    try:
        with atomic_file(path, binary=True) as file:
            torch.save(dict(data), file)
    except (OSError, RuntimeError) as error:
        # A full disk reaches torch's zip writer as a RuntimeError that does not say so.
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ResourceError(f"{path}: could not be written: {error}", hint="Free some disk space.") from None


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: Missing, truncated, foreign, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file", hint="Train one: medtrain fit")
    data = load_tensors(path)
    found = data.get("medtrain_format") if isinstance(data, dict) else None
    if not isinstance(found, int):
        hint = "Only checkpoints that medtrain wrote say how their images are prepared; for others see docs/export.md."
        raise CheckpointError(f"{path}: not a medtrain checkpoint", hint=hint)
    if found != CHECKPOINT_FORMAT:
        hint = "Upgrade: pip install -U medonnx"
        raise CheckpointError(f"{path}: format {found}; this medtrain reads {CHECKPOINT_FORMAT}", hint=hint)
    return dict(data)


def load_tensors(path: Path) -> Any:
    """Read tensors and JSON values, nothing else: a pickle that would run code is refused.

    Raises:
        CheckpointError: Missing, truncated, compressed, or holding other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if zipfile.is_zipfile(path):
        _refuse_compressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message would advise to turn the protection off.
        hint = "A whole pickled module runs code when it is read: save its state_dict() instead."
        raise CheckpointError(f"{path}: damaged, or holds more than tensors and JSON", hint=hint) from None
    except Exception:  # noqa: BLE001 - whatever a damaged file makes of the reader
        hint = "It may be truncated; an interrupted run goes on from last.pt with --resume."
        raise CheckpointError(f"{path}: not a whole checkpoint", hint=hint) from None


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read a network's tensors by its own names: from a state_dict, or a training checkpoint with one inside.

    Raises:
        CheckpointError: As `load_tensors`; or there is no state_dict in it.
    """
    loaded = load_tensors(path)
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    found = loaded if isinstance(loaded, dict) else {}
    if not found or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        hint = "Save one with torch.save(model.state_dict(), FILE)."
        raise CheckpointError(f"{path}: holds no state_dict", hint=hint)
    # Wrappers wrap one another: as long as one stands before every name, it goes.
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _refuse_compressed(path: Path) -> None:
    """Refuse by the directory of the zip what would inflate to more than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return  # damaged: the reader will say so
    if inflated:
        raise CheckpointError(f"{path}: holds compressed records, which torch never writes")
