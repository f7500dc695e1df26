"""Networks that were trained elsewhere: any module, or a state_dict with a description of its images."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from torch import nn

import medexport
import medinfer
from medexport.cli import cli
from medexport.source import read_weights
from medinfer.errors import CheckpointError, UsageError
from medinfer.spec import Provenance

SPEC_TOML = """
name = "foreign"
positive = ["b"]

[input]
height = 64
width = 64
interpolation = "area"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


class Tiny(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=4)
        self.dropout = nn.Dropout(0.9)
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.dropout(self.convolution(x).relu().mean((2, 3)))) * 20


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(8, 3, 64, 64))
        network.fc.weight.mul_(10)
    return network.eval()


@pytest.fixture
def folder(tmp_path, resnet):
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    (tmp_path / "spec.toml").write_text(SPEC_TOML)
    return tmp_path


def read(folder, weights="w.pth", classes=("a", "b", "c"), arch="resnet18"):
    return read_weights(folder / weights, arch, folder / "spec.toml", classes)


def export_words(folder, *words):
    command = ["onnx", "--weights", str(folder / "w.pth"), "--arch", "resnet18", "--classes", "a,b,c"]
    command += ["--spec", str(folder / "spec.toml"), "--output", str(folder / "w.onnx"), *words]
    return CliRunner().invoke(cli, command, catch_exceptions=False)


def test_a_torchvision_state_dict_is_exported_in_one_command(folder, resnet):
    assert export_words(folder).exit_code == 0
    model = medinfer.load(folder / "w.onnx", "cpu")
    assert (model.spec.name, model.classes, model.spec.positive) == ("foreign", ("a", "b", "c"), ("b",))
    assert len(model.spec.provenance.checkpoint_sha256) == 64
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mean, std = (np.float32(model.spec.input.mean), np.float32(model.spec.input.std))
    normal = torch.from_numpy(((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        wanted = resnet(normal)[0].numpy()
    assert np.allclose(list(model.predict(pixels).logits.values()), wanted, atol=1e-3)


@pytest.mark.parametrize(
    "wrap", [lambda d: {"state_dict": d}, lambda d: {"epoch": 3, "model": d}], ids=["key", "model"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "module._orig_mod."])
def test_wrapped_state_dicts_are_unwrapped(folder, resnet, wrap, prefix):
    weights = {prefix + name: value for name, value in resnet.state_dict().items()}
    torch.save(wrap(weights), folder / "wrapped.pth")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert np.array_equal(read(folder, "wrapped.pth").logits(images), read(folder).logits(images))


def test_files_of_the_time_before_zip_are_read(folder, resnet):
    torch.save(resnet.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    assert read(folder, "old.pth").spec.classes == ("a", "b", "c")


def test_what_does_not_fit_is_refused_with_the_names(folder, resnet):
    weights = resnet.state_dict()
    torch.save({name: value for name, value in weights.items() if "layer4" not in name}, folder / "lacking.pth")
    with pytest.raises(CheckpointError, match=r"lacks layer4\.0\.conv1\.weight") as caught:
        read(folder, "lacking.pth")
    assert "and 20 more" in str(caught.value)
    assert "--arch" in caught.value.hint
    torch.save({**weights, "surplus": torch.zeros(1)}, folder / "more.pth")
    with pytest.raises(CheckpointError, match="has besides surplus"):
        read(folder, "more.pth")
    with pytest.raises(UsageError, match="the weights answer for 3 classes; 4 are named"):
        read(folder, classes=("a", "b", "c", "d"))
    with pytest.raises(CheckpointError, match="do not fit resnet34"):
        read(folder, arch="resnet34")


def test_whole_modules_and_other_pickles_are_refused_and_never_run(folder, resnet, tmp_path):
    torch.save(resnet, folder / "module.pth")
    with pytest.warns(FutureWarning):
        torch.jit.script(nn.Linear(2, 2)).save(folder / "script.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({0: torch.zeros(1)}, folder / "numbered.pth")
    (folder / "junk.pth").write_bytes(b"junk" * 100)
    (folder / "empty.pth").write_bytes(b"")
    whole = (folder / "w.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    for name in ("module", "script", "list", "numbered", "junk", "empty", "half", "bomb", "absent"):
        with pytest.raises(CheckpointError) as caught:
            read(folder, f"{name}.pth")
        assert caught.value.exit_code == 4
        assert "weights_only" not in str(caught.value)
    with pytest.raises(CheckpointError, match="state_dict"):
        read(folder, "module.pth")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[input", "not TOML"),
        ("x = 1\n" + SPEC_TOML, "x: unknown key"),
        (SPEC_TOML.replace("area", "lanczos"), "input.interpolation"),
        (SPEC_TOML.replace('["b"]', '["z"]'), "positive: 'z' is not one of the classes"),
        ("", "input: missing"),
        (SPEC_TOML.replace("0.485, 0.456, 0.406", "123.7, 116.3, 103.5"), "divide what is on 0..255 by 255"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_its_field(folder, text, words):
    (folder / "spec.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read(folder)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_classes_may_stand_in_the_description(folder):
    (folder / "spec.toml").write_text('classes = ["x", "b", "z"]\n' + SPEC_TOML)
    assert read(folder, classes=None).spec.classes == ("x", "b", "z")
    (folder / "spec.toml").write_text(SPEC_TOML)
    with pytest.raises(UsageError, match="names no classes"):
        read(folder, classes=None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Name a CHECKPOINT"),
        (["ckpt.pt", "--weights", "w.pth"], "Name a CHECKPOINT"),
        (["--weights", "w.pth"], "--arch"),
        (["ckpt.pt", "--arch", "resnet18"], "a checkpoint knows its own"),
        (["ckpt.pt", "--classes", ""], "a checkpoint knows its own"),
    ],
)
def test_a_command_line_that_names_too_little_or_too_much_is_refused(words, told):
    result = CliRunner().invoke(cli, ["onnx", *words])
    assert result.exit_code == 2
    assert told in result.output


def test_spaces_around_class_names_are_no_part_of_them_and_empty_names_are_refused(folder):
    result = export_words(folder, "--classes", "a, b ,c", "--overwrite")
    assert result.exit_code == 0, result.output
    assert medinfer.load(folder / "w.onnx", "cpu").classes == ("a", "b", "c")
    for names in ("", "a,,c"):
        result = export_words(folder, "--classes", names, "--overwrite")
        assert result.exit_code == 2
        assert "--classes" in result.output


def test_a_name_that_stands_for_two_networks_is_refused(folder):
    with pytest.raises(UsageError, match="one of two networks") as caught:
        read(folder, arch="efficientnet_lite0")
    assert "timm:tf_efficientnet_lite0" in caught.value.hint


def test_a_module_in_double_precision_is_exported_in_single(spec, tmp_path):
    torch.manual_seed(0)
    written = medexport.export(Tiny().double(), spec, tmp_path / "tiny.onnx")
    assert written.agreement.precision == "fp32"


def test_any_module_is_exported_from_python_and_stays_as_it_was(spec, tmp_path):
    torch.manual_seed(0)
    module = Tiny().train()
    written = medexport.export(module, replace(spec, provenance=Provenance()), tmp_path / "tiny.onnx")
    assert written.agreement.differences.label_flips == 0
    assert module.training
    assert module.dropout.training
    assert medinfer.load(tmp_path / "tiny.onnx", "cpu").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(Tiny(), nn.Softmax(1)), "probabilities, not logits"),
        (Tiny(classes=4), r"returns \(4, 4\), not \(4, 3\)"),
        (nn.Conv2d(3, 3, 3), "not (4, 3)"),
        (nn.Linear(3, 3), "does not run on 40x48 pixels"),
    ],
    ids=["softmax", "classes", "map", "shape"],
)
def test_modules_that_return_no_logits_are_refused(spec, tmp_path, module, words):
    with pytest.raises(UsageError, match=words if "\\" in words else None) as caught:
        medexport.export(module, spec, tmp_path / "tiny.onnx")
    assert words.replace("\\", "") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
