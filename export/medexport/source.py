"""What is exported, a classifier in torch with its contract: from ckpt.pt, a foreign state_dict, or any module."""

from __future__ import annotations

import copy
import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medinfer.errors import CheckpointError, ModelError, SpecError, UsageError
from medinfer.schema import Schema, schema
from medinfer.spec import Calibration, InputSpec, ModelSpec, OperatingPoint, Provenance
from medtrain.checkpoint import load_checkpoint, read_state_dict
from medtrain.network import Classifier, build_plain_network, predict_logits, predict_scored

MOST_NAMED = 5


@dataclass(frozen=True)
class Source:
    """A classifier and its contract; `spec.provenance` names the checkpoint's hash."""

    classifier: nn.Module
    """Pixels (batch, C, H, W) on 0..255 -> logits (batch, classes); in evaluation mode."""
    spec: ModelSpec

    def logits(self, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what torch says: float32 (n, classes) for uint8 (n, H, W, C); the reference of every verdict."""
        return predict_logits(self.classifier, tensors)

    def scored(self, tensors: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return the logits, and how unlike the training's each image is, float32 (n,), if the network can tell."""
        return predict_scored(self.classifier, tensors)


@schema
class ForeignSpec(Schema):
    """What a TOML file says of a foreign model: how its images are prepared, and what its outputs mean."""

    name: str | None = None
    classes: tuple[str, ...] | None = None
    positive: tuple[str, ...] = ()
    input: InputSpec
    calibration: Calibration = Calibration()
    operating_points: tuple[OperatingPoint, ...] = ()


def read_checkpoint(path: str | os.PathLike[str]) -> Source:
    """Read a checkpoint that medtrain wrote; raises CheckpointError."""
    checkpoint = load_checkpoint(Path(path))
    provenance = replace(checkpoint.spec.provenance, checkpoint_sha256=sha256(path))
    return Source(checkpoint.classifier(), replace(checkpoint.spec, provenance=provenance))


def from_module(module: nn.Module, spec: ModelSpec) -> Source:
    """Take any module that turns normalised images, float (batch, C, H, W), into logits (batch, classes).

    The module is copied, to the CPU, to fp32 and into evaluation mode: the caller's stays as it is. Mean and std are
    the contract's and must not be in the module as well.

    Raises:
        UsageError: It does not run on the contract's size, or what it returns are no logits.
    """
    try:
        copied = copy.deepcopy(module)
    except RuntimeError as error:  # torch's own, of tensors that belong to a graph of gradients
        raise UsageError(f"the network cannot be copied: {error}") from None
    classifier = Classifier(copied.cpu().float(), spec.input.mean, spec.input.std).eval()
    _check_outputs(classifier, spec)
    return Source(classifier, spec)


def read_weights(
    path: str | os.PathLike[str],
    arch: str,
    spec_file: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
) -> Source:
    """Read a foreign state_dict into a network known by name.

    Args:
        path: A file that torch.save wrote: a state_dict, or a training checkpoint with one inside.
        arch: torchvision's name, or `timm:NAME`.
        spec_file: TOML: a table `input`, and optionally name, classes, positive, calibration, operating_points.
        classes: Names in output order; by default the file's.

    Raises:
        CheckpointError: The file is refused, or does not fit the network.
        UsageError: The description is refused; no such architecture.
    """
    spec = _read_spec(Path(spec_file), Path(path).stem, classes)
    spec = replace(spec, provenance=Provenance(checkpoint_sha256=sha256(path)))
    weights = read_state_dict(Path(path))
    network = build_plain_network(arch, classes=len(spec.classes), in_channels=spec.input.channels)
    _load(network, weights, arch, spec.classes)
    return from_module(network, spec)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return a file's hash as hexadecimal digits; raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _read_spec(path: Path, name: str, classes: Sequence[str] | None) -> ModelSpec:
    try:
        described = ForeignSpec.from_json(tomllib.loads(path.read_text(encoding="utf-8")))
        names = tuple(classes or described.classes or ())
        if not names:
            raise UsageError(f"{path}: names no classes", hint="Pass --classes a,b,c in the order of the outputs.")
        return ModelSpec(
            name=described.name or name,
            classes=names,
            task="binary" if len(names) == 2 else "multiclass",
            positive=described.positive,
            input=described.input,
            calibration=described.calibration,
            operating_points=described.operating_points,
        )
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    except SpecError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint or "docs/export.md shows one.") from None


def _load(network: nn.Module, weights: Mapping[str, Tensor], arch: str, classes: Sequence[str]) -> None:
    own = network.state_dict()
    # Old files have no batch counters, and nothing depends on them.
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    surplus = [name for name in weights if name not in own]
    if missing or surplus:
        problems = [f"lacks {_named(missing)}"] * bool(missing) + [f"has besides {_named(surplus)}"] * bool(surplus)
        hint = "Is it another architecture? --arch names the network."
        raise CheckpointError(f"the weights do not fit {arch}: the file {', and '.join(problems)}", hint=hint)
    differing = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if differing:
        name = differing[-1]
        found, wanted = tuple(weights[name].shape), tuple(own[name].shape)
        if found[1:] == wanted[1:] and wanted[0] == len(classes):
            raise UsageError(f"the weights answer for {found[0]} classes; {len(classes)} are named")
        raise CheckpointError(f"the weights do not fit {arch}: {name} is {found}, the network's {wanted}")
    network.load_state_dict(dict(weights), strict=False)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _check_outputs(classifier: nn.Module, spec: ModelSpec) -> None:
    """Refuse what would be exported without complaint and answered wrongly."""
    size = spec.input
    noise = torch.randint(
        0, 256, (4, size.channels, size.height, size.width), generator=torch.Generator().manual_seed(0)
    )
    try:
        with torch.inference_mode():
            answer = classifier(noise.to(torch.uint8))
    except Exception as error:  # it is the network's own code
        raise UsageError(f"the network does not run on {size.width}x{size.height} pixels: {error}") from error
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != (4, len(spec.classes)):
        hint = "Wrap it so that it returns logits (batch, classes)."
        raise UsageError(f"the network returns {shape}, not (4, {len(spec.classes)})", hint=hint)
    if not torch.isfinite(answer).all():
        raise ModelError("the network answers NaN or infinity on noise")
    if (answer >= 0).all() and torch.allclose(answer.sum(dim=1), torch.ones(4), atol=1e-4):
        raise UsageError(
            "the network returns probabilities, not logits", hint="Leave out its softmax: the file adds one."
        )
