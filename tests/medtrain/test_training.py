"""Augmentation, the loop, and checkpoints."""

import numpy as np
import pytest
import torch

from medinfer.errors import CheckpointError, DivergenceError
from medtrain.augment import augment
from medtrain.checkpoint import load, load_checkpoint, save
from medtrain.dataset import Examples
from medtrain.loop import Trainer, class_weights
from medtrain.network import Classifier, build_network, head_of, network_config, predict_logits
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


def trainer(size=40, *, workers=None, **overrides):
    recipe = load_recipe("phantom", [f"{key}={value}" for key, value in overrides.items()])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 64, 64, 3), dtype=np.uint8)
    labels = np.arange(size) % 2
    images[labels == 1] //= 2  # the dark ones
    torch.manual_seed(0)
    network = build_network(network_config(recipe.network, recipe.input, classes=2))
    classifier = Classifier(network, recipe.input.mean, recipe.input.std)
    examples = Examples(images, labels, tuple(f"{i}.png" for i in range(size)))
    return Trainer(classifier, recipe, examples, examples, workers=workers)


def run(made, stop_after=None):
    seen = []

    def on_batch(loss):
        seen.append(loss)
        if stop_after and len(seen) == stop_after:
            raise InterruptedError

    made.run(on_batch, lambda: None)
    return seen


def assert_same_weights(first, second):
    for name, value in first.classifier.state_dict().items():
        assert torch.equal(value, second.classifier.state_dict()[name]), name


def test_the_loss_curve_is_the_same_on_every_run_and_falls():
    # A golden curve, loosely held: another processor rounds differently, another algorithm does worse.
    first, again = run(trainer(**{"training.epochs": 2})), run(trainer(**{"training.epochs": 2}))
    assert first == again
    assert first[0] == pytest.approx(0.7, abs=0.25)
    assert first[-1] < 0.5 * first[0]


PLAIN = {"training.epochs": 4}
PLATEAU = {
    **PLAIN,
    "training.schedule": "plateau",
    "training.plateau.patience": 1,
    "training.plateau.min_delta": 0.5,
    "training.early_stopping": 2,
    "training.optimizer": "adamax",
}
FROZEN = {
    **PLAIN,
    "training.frozen_epochs": 2,
    "training.backbone_rate": 0.1,
    "training.class_weights": "balanced",
    "training.label_smoothing": 0.1,
    "training.optimizer": "sgd",
}
AUGMENTED = {**PLAIN, "augment.rotate": 30, "augment.scale": 0.2, "training.select": "auc"}


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "settings", [PLAIN, PLATEAU, FROZEN, AUGMENTED], ids=["plain", "plateau", "frozen", "augmented"]
)
def test_a_state_taken_at_any_batch_continues_to_the_same_weights(settings, stop_after):
    whole = trainer(workers=1, **settings)
    run(whole)
    killed = trainer(workers=3, **settings)
    with pytest.raises(InterruptedError):
        run(killed, stop_after)
    state = killed.state()
    torch.manual_seed(99)  # a new process starts anywhere
    resumed = trainer(workers=2, **settings)
    resumed.restore(state)
    run(resumed)
    assert_same_weights(whole, resumed)
    assert whole.progress.history == resumed.progress.history


def test_frozen_epochs_change_the_head_alone_and_the_backbone_then_learns():
    made = trainer(**FROZEN)
    before = {name: value.clone() for name, value in made.classifier.state_dict().items()}
    seen = []

    def on_epoch():
        changed = {n.split(".")[1] for n, v in made.classifier.state_dict().items() if not torch.equal(v, before[n])}
        seen.append(changed)

    made.run(lambda loss: None, on_epoch)
    assert seen[1] == {"head"}
    assert seen[3] == {"head", "features"}


def test_early_stopping_ends_the_run_and_keeps_the_best_weights():
    made = trainer(**{**PLAIN, "training.epochs": 30, "training.early_stopping": 2, "training.learning_rate": 0.03})
    run(made)
    history = made.progress.history
    assert len(history) == made.best_epoch + 3 < 30
    best = history[made.best_epoch]
    made.classifier.load_state_dict(made.progress.best_state)
    logits = predict_logits(made.classifier, made.validation.images)
    assert np.mean(logits.argmax(axis=1) == made.validation.labels) == best["validation_accuracy"]


def test_balanced_weights_make_a_rare_class_count_as_much():
    labels = np.array([0] * 30 + [1] * 10)
    balanced = class_weights(labels, Training(epochs=1, class_weights="balanced"))
    assert balanced.tolist() == pytest.approx([40 / 60, 2.0])
    assert float(balanced[labels].mean()) == pytest.approx(1)
    assert class_weights(labels, Training(epochs=1)).tolist() == [1, 1]


def test_a_last_batch_of_one_image_is_left_out():
    assert trainer(33).batches == 1
    assert trainer(34).batches == 2
    assert trainer(5).batches == 1


def test_mixed_precision_keeps_float32_weights_and_falls_back_where_it_is_not_native():
    made = trainer(**{"training.epochs": 1, "training.precision": "mixed"})
    run(made)
    assert {value.dtype for value in made.classifier.parameters()} == {torch.float32}
    assert made.precision.dtype in (torch.bfloat16, torch.float32)


def test_a_loss_that_is_no_number_stops_the_run_and_says_where():
    made = trainer(**{"training.epochs": 1, "training.batch_size": 10})
    with torch.no_grad():
        head_of(made.classifier)[1][-1].weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match=r"epoch 1, batch 1 .*\d+\.png") as stopped:
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
