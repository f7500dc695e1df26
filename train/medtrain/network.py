"""Networks: built from a `NetworkConfig` alone, so that a checkpoint can be rebuilt with no download.

A `Classifier` is the network with its normalisation in front: pixels in, logits out. Training, the exporter and the
verdict all run this one module, so mean and std cannot differ between them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medinfer.errors import CheckpointError, MissingExtraError, UsageError
from medinfer.schema import Schema, schema
from medinfer.spec import InputSpec
from medtrain.head import LARGEST, Head, HeadConfig, watched
from medtrain.recipe import Network, Pool

Source = Literal["medtrain", "timm", "torchvision"]

EVALUATION_BATCH = 64
# The two small networks that published notebooks train from scratch.
PLAIN_CNNS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "malaria_cnn": {"widths": (64, 64, 64), "pools": (2, 2, 2), "dense": (64, 64)},
    "ct_mri_cnn": {"widths": (32, 32, 32), "pools": (4, 3, 2), "dense": (128,)},
}


# What a checkpoint may say of those: a hostile one must not take all memory.
OWN_KWARGS = {"size", "widths", "pools", "dense"}
MOST_LAYERS = 16


@schema
class NetworkConfig(Schema):
    """Everything that decides a network's shape; stored in the checkpoint."""

    source: Source
    arch: str
    kwargs: Mapping[str, Any]
    in_channels: int
    head: HeadConfig
    pool: Pool = "avg"


class SmallCnn(nn.Module):
    """Convolution stages that halve the picture, global average pooling, one linear layer.

    For small pictures and quick runs; trained from scratch.
    """

    def __init__(self, in_channels: int, head: HeadConfig, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for width in widths:
            convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            # Pooling before ReLU gives the same numbers as after it, and leaves a quarter of the work.
            stages += [convolution, nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
            in_channels = width
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = Head(in_channels, head)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) for (batch, in_channels, H, W)."""
        return cast(Tensor, self.head(self.pool(self.features(x)).flatten(1)))


class PlainCnn(nn.Module):
    """Unpadded 3x3 convolutions, each with max pooling and ReLU; then dense layers on all that is left.

    As Keras tutorials build them, with Keras's initialisation (Glorot & Bengio 2010, uniform).
    """

    def __init__(
        self,
        in_channels: int,
        head: HeadConfig,
        *,
        size: Sequence[int],
        widths: Sequence[int],
        pools: Sequence[int],
        dense: Sequence[int],
    ) -> None:
        super().__init__()
        sides = list(size)
        stages: list[nn.Module] = []
        for width, pool in zip(widths, pools, strict=True):
            stages += [nn.Conv2d(in_channels, width, 3), nn.MaxPool2d(pool), nn.ReLU(inplace=True)]
            sides = [(side - 2) // pool for side in sides]
            in_channels = width
        if min(sides) < 1:
            raise ValueError(f"pictures of {size[0]}x{size[1]} pixels are too small for it")
        self.features = nn.Sequential(*stages)
        features = in_channels * math.prod(sides)
        layers: list[nn.Module] = []
        for units in dense:
            layers += [nn.Linear(features, units), nn.ReLU(inplace=True)]
            features = units
        self.dense = nn.Sequential(*layers)
        self.head = Head(features, head)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) for (batch, in_channels, H, W)."""
        return cast(Tensor, self.head(self.dense(self.features(x).flatten(1))))


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

    @property
    def head(self) -> Head | None:
        """The network's head, if it is one of ours."""
        return next((module for module in self.network.modules() if isinstance(module, Head)), None)

    def scored(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes), and how unlike the training's each image is, float (batch,)."""
        seen: list[Tensor] = []
        head = self.head
        assert head is not None
        with watched(head, seen):
            logits = self(image)
        return logits, head.residual(seen[0])


def network_config(wanted: Network, spec: InputSpec, *, classes: int) -> NetworkConfig:
    """Return the configuration of an architecture known by name: ours, `timm:NAME`, or torchvision's.

    Args:
        wanted: The recipe's words.
        spec: Channels, and the size of the pictures, which some networks are built for.
        classes: Number of outputs.

    Raises:
        UsageError: No such architecture.
        MissingExtraError: The library that has it is not installed.
    """
    source, name = _locate(wanted.arch)
    kwargs: dict[str, Any] = {}
    if name in PLAIN_CNNS:
        kwargs = {"size": [spec.height, spec.width], **{key: list(value) for key, value in PLAIN_CNNS[name].items()}}
    head = HeadConfig(classes=classes, dropout=wanted.dropout, kind=wanted.head)
    return NetworkConfig(
        source=source, arch=name, kwargs=kwargs, in_channels=spec.channels, head=head, pool=wanted.pool
    )


def _locate(arch: str) -> tuple[Source, str]:
    if arch == "small_cnn" or arch in PLAIN_CNNS:
        return "medtrain", arch
    if arch == "efficientnet_lite0":
        return "timm", "tf_efficientnet_lite0"
    if arch.startswith("timm:"):
        name = arch.removeprefix("timm:")
        if not library("timm", "pretrained").is_model(name):
            raise UsageError(f"network.arch: timm has no {name!r}", hint="See timm.list_models().")
        return "timm", name
    known = library("torchvision.models", "train").list_models(library("torchvision.models", "train"))
    if arch not in known:
        ours = ", ".join(("small_cnn", *PLAIN_CNNS, "efficientnet_lite0"))
        hint = f"There are {ours}, timm:NAME, and torchvision's, such as resnet18."
        raise UsageError(f"network.arch: {arch!r} is not known", hint=hint)
    return "torchvision", arch


def library(name: str, extra: str) -> Any:
    """Import a module that an extra brings; raises MissingExtraError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(name.partition(".")[0], extra) from None


def build_network(config: NetworkConfig) -> nn.Module:
    """Build a network with random weights; one of its modules is a `Head`.

    Raises:
        CheckpointError: The configuration names nothing that can be built.
        MissingExtraError: The library it comes from is not installed.
    """
    if not _is_known(config):
        given = dict(config.kwargs)
        raise CheckpointError(f"network {config.source}:{config.arch} with {given} is none that medtrain writes")
    try:
        if config.source == "medtrain":
            kind: Any = PlainCnn if config.arch in PLAIN_CNNS else SmallCnn
            if config.pool != "avg":
                raise ValueError("its pooling is fixed")
            return cast(nn.Module, kind(config.in_channels, config.head, **config.kwargs))
        network = _build_timm(config) if config.source == "timm" else _build_torchvision(config)
        name, last = _last_linear(network)
        _drop_dropout_before(network, name)
        _replace(network, name, Head(last.in_features, config.head))
        return network
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"network {config.source}:{config.arch} cannot be built: {error}") from None


def _is_known(config: NetworkConfig) -> bool:
    """Tell whether a configuration is one that medtrain writes.

    A checkpoint may be anybody's: it must name nothing that would be downloaded, read from disk, or take all memory.
    """
    if config.source == "medtrain":
        values = [value if isinstance(value, list | tuple) else [value] for value in config.kwargs.values()]
        sane = all(len(v) <= MOST_LAYERS and all(type(n) is int and 0 < n <= LARGEST for n in v) for v in values)
        return sane and set(config.kwargs) <= OWN_KWARGS and (config.arch == "small_cnn" or config.arch in PLAIN_CNNS)
    if config.kwargs:
        return False
    if config.source == "timm":
        return bool(library("timm", "pretrained").is_model(config.arch))
    models = library("torchvision.models", "train")
    return config.arch in models.list_models(models)


def build_plain_network(arch: str, *, classes: int, in_channels: int) -> nn.Module:
    """Build a library's network as it stands there, without a head of ours, for weights that were trained elsewhere.

    Raises:
        UsageError: No such architecture, or not with these classes and channels.
        MissingExtraError: The library it comes from is not installed.
    """
    if arch == "efficientnet_lite0":
        # Two networks with the same tensors and other paddings: the wrong one would answer, and wrongly.
        hint = "Name timm:efficientnet_lite0 or timm:tf_efficientnet_lite0, whichever it was."
        raise UsageError(f"arch: {arch} stands for one of two networks", hint=hint)
    source, name = _locate(arch)
    if source == "medtrain":
        raise UsageError(f"arch: {arch} is medtrain's own", hint="Pass the ckpt.pt that medtrain fit wrote.")
    try:
        if source == "timm":
            timm = library("timm", "pretrained")
            return cast(nn.Module, timm.create_model(name, pretrained=False, num_classes=classes, in_chans=in_channels))
        network: nn.Module = library("torchvision.models", "train").get_model(name, weights=None, num_classes=classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"arch: {arch} cannot be built with {classes} classes: {error}") from None
    if in_channels != 3:
        _adapt_first_convolution(network, in_channels)
    return network


def head_of(network: nn.Module) -> tuple[str, Head]:
    """Return the network's head and the name it stands under."""
    return next((name, module) for name, module in network.named_modules() if isinstance(module, Head))


def _build_timm(config: NetworkConfig) -> nn.Module:
    timm = library("timm", "pretrained")
    pool = {} if config.pool == "avg" else {"global_pool": config.pool}
    options = {"num_classes": config.head.classes, "in_chans": config.in_channels, **pool, **config.kwargs}
    return cast(nn.Module, timm.create_model(config.arch, pretrained=False, **options))


def _build_torchvision(config: NetworkConfig) -> nn.Module:
    models = library("torchvision.models", "train")
    network: nn.Module = models.get_model(config.arch, weights=None, **config.kwargs)
    if config.pool == "max":
        pools = [name for name, module in network.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
        if "avgpool" not in pools:
            raise ValueError("its pooling is no module that could be replaced")
        _replace(network, "avgpool", nn.AdaptiveMaxPool2d(network.get_submodule("avgpool").output_size))  # type: ignore[arg-type]
    if config.in_channels != 3:
        _adapt_first_convolution(network, config.in_channels)
    return network


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    linears = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError("it has no linear layer to replace by a head")
    return linears[-1]


def _drop_dropout_before(network: nn.Module, name: str) -> None:
    """Take out the dropout that stands right before the last layer: the head has its own."""
    parent, _, child = name.rpartition(".")
    siblings = network.get_submodule(parent)
    if not isinstance(siblings, nn.Sequential) or not child.isdigit() or int(child) == 0:
        return
    if isinstance(siblings[int(child) - 1], nn.Dropout):
        siblings[int(child) - 1] = nn.Identity()


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


def predict_logits(classifier: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return logits, float32 (images, classes), for tensors uint8 (images, H, W, C): fp32, evaluation mode."""
    classifier.eval()
    with torch.inference_mode():
        logits = [classifier(batch).float().cpu().numpy() for batch in _batches(classifier, images)]
    return np.concatenate(logits)


def knows_outliers(classifier: nn.Module) -> bool:
    """Tell whether a classifier knows how unlike the training's an image is."""
    return isinstance(classifier, Classifier) and classifier.head is not None and classifier.head.directions > 0


def predict_scored(
    classifier: nn.Module, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Return logits as `predict_logits` does, and `ood_score`, float32 (images,), if it is known."""
    if not knows_outliers(classifier):
        return predict_logits(classifier, images), None
    classifier.eval()
    with torch.inference_mode():
        pairs = [cast(Classifier, classifier).scored(batch) for batch in _batches(classifier, images)]
    logits, scores = (np.concatenate([one.float().cpu().numpy() for one in side]) for side in zip(*pairs, strict=True))
    return logits, scores


def _batches(classifier: nn.Module, images: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    device = next(chain(classifier.parameters(), classifier.buffers())).device
    for start in range(0, len(images), EVALUATION_BATCH):
        yield to_tensor(images[start : start + EVALUATION_BATCH], device)


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return uint8 (n, C, H, W), channels last in memory as the images are: nothing is copied on a CPU."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
