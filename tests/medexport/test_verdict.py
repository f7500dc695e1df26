"""The verdict: what it measures, and that no export that went wrong gets past it."""

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import medinfer
from medexport import build
from medexport.bisect import first_difference
from medexport.build import build_file
from medexport.graph import to_onnx
from medexport.reference import images_of
from medexport.stamp import stamp
from medexport.verify import describe, judge
from medinfer.agreement import softmax
from medinfer.errors import CheckpointError, DisagreementError, MedonnxError, UsageError
from medinfer.golden import verify as replay
from medinfer.graph import OUTPUTS
from medinfer.spec import Calibration, Graph, ModelSpec, OperatingPoint, Target
from medtrain.network import Classifier


# Each way in which an export has been seen to go wrong, done to the file but not to the checkpoint.
def swap_mean_and_std(s):
    return replace(s, classifier=Classifier(s.classifier.network, s.spec.input.std, s.spec.input.mean).eval())


def scale_one_tensor(s):
    network = copy.deepcopy(s.classifier.network)
    with torch.no_grad():
        [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1].weight.mul_(1.01)
    return replace(s, classifier=Classifier(network, s.spec.input.mean, s.spec.input.std).eval())


def leave_dropout_on(s):
    class Dropping(nn.Module):
        def forward(self, x):
            return x * (torch.arange(128) % 2)  # what one draw of dropout does

    network = copy.deepcopy(s.classifier.network)
    network.head[0] = Dropping()
    return replace(s, classifier=Classifier(network, s.spec.input.mean, s.spec.input.std).eval())


def feed_bgr(s):
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = s.classifier

        def forward(self, image):
            return self.inner(image.flip(1))

    return replace(s, classifier=Swapped().eval())


def rotate_the_classes(s):
    return replace(s, spec=replace(s.spec, classes=("b", "c", "a")))


# ... and where a bisection finds it.
BREAKINGS = {
    swap_mean_and_std: "classifier.scale",
    scale_one_tensor: "features.12.weight",
    leave_dropout_on: "head",
    feed_bgr: "inside the graph",
    rotate_the_classes: "",  # the graph is right, only its columns are called otherwise
}


def draft_of(broken, path):
    spec = replace(broken.spec, graph=Graph())
    path.write_bytes(stamp(to_onnx(broken.classifier, spec), spec))
    return path


@pytest.mark.parametrize("breaking", BREAKINGS, ids=lambda breaking: breaking.__name__)
def test_a_broken_export_is_caught_and_traced_to_its_cause(source, tmp_path, breaking):
    draft = draft_of(breaking(source), tmp_path / "draft.onnx")
    with pytest.raises(DisagreementError) as caught:
        judge(source, medinfer.load(draft, "cpu"), images_of(None))
    assert caught.value.exit_code == 6
    assert BREAKINGS[breaking] in str(first_difference(source, draft, images_of(None)))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("input.interpolation", {"input": {"interpolation": "linear"}}),
        ("input.depth16", {"input": {"depth16": {"rule": "range", "low": 0, "high": 4095}}}),
        ("input.alpha", {"input": {"alpha": {"over": [255, 0, 0]}}}),
        ("input.dicom", {"input": {"dicom": {"window": [40, 400]}}}),
        ("input.mean", {"input": {"mean": [0.1, 0.2, 0.3]}}),
        ("calibration", {"calibration": {"temperature": 5.0}}),
        ("positive", {"positive": ["a"]}),
    ],
)
def test_a_contract_that_is_not_the_checkpoints_is_refused_though_drawn_images_cannot_show_it(
    source, exported, tmp_path, field, change
):
    model = onnx.load(exported)
    told = source.spec.to_json()
    for key, value in change.items():
        told[key] = {**told[key], **value} if isinstance(value, dict) else value
    spec = replace(ModelSpec.from_json(told), graph=Graph())
    (tmp_path / "draft.onnx").write_bytes(stamp(model, spec))
    with pytest.raises(DisagreementError, match=f"contracts of file and checkpoint differ in {field}"):
        judge(source, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


def rewritten(exported, path, change):
    """Write an exported file with its graph changed, and its contract as it was."""
    model = onnx.load(exported)
    change(model.graph)
    onnx.save(model, path)
    return medinfer.load(path, "cpu")


def negate_before_the_softmax(graph):
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    graph.node.insert(len(graph.node) - 1, onnx.helper.make_node("Neg", [softmax.input[0]], ["negated"]))
    softmax.input[0] = "negated"


def test_right_logits_behind_wrong_probabilities_are_caught(source, exported, tmp_path):
    """Labels, probabilities and decisions come from the other output."""
    model = rewritten(exported, tmp_path / "draft.onnx", negate_before_the_softmax)
    with pytest.raises(DisagreementError, match=r"max \|dp\|"):
        judge(source, model, images_of(None))
    assert not replay(model).passes


def test_a_calibration_that_the_graph_lacks_is_caught(make_source, spec, exported, tmp_path):
    warm = make_source(spec=replace(spec, calibration=Calibration(temperature=2.0)))
    told = replace(warm.spec, graph=Graph())
    (tmp_path / "draft.onnx").write_bytes(stamp(onnx.load(exported), told))
    with pytest.raises(DisagreementError, match=r"max \|dp\|"):
        judge(warm, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_cannot_choose_a_wider_tolerance(source, exported, tmp_path, precision):
    spec = replace(source.spec, graph=Graph(precision=precision))
    (tmp_path / "draft.onnx").write_bytes(stamp(onnx.load(exported), spec))
    with pytest.raises(DisagreementError, match=f"says that it is {precision}, and is fp32"):
        judge(source, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


def test_a_decoy_in_half_precision_does_not_widen_the_tolerance(source, exported, tmp_path):
    model = onnx.load(exported)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float16), "decoy"))
    (tmp_path / "draft.onnx").write_bytes(stamp(model, replace(source.spec, graph=Graph(precision="fp16"))))
    with pytest.raises(DisagreementError, match="says that it is fp16, and is fp32"):
        judge(source, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


def test_what_only_the_patterns_show_is_caught(source, exported, tmp_path):
    """A graph that is wrong for black pictures alone, and images that hold none."""

    def wrong_for_black(graph):
        bias = onnx.numpy_helper.from_array(np.float32([[9, -9, 0]]), "spoil")
        graph.initializer.extend([bias, onnx.numpy_helper.from_array(np.int64([1, 2, 3]), "all")])
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
        graph.node.insert(0, onnx.helper.make_node("Cast", ["image"], ["as_float"], to=1))
        graph.node.insert(1, onnx.helper.make_node("ReduceMax", ["as_float", "all"], ["most"], keepdims=0))
        graph.node.insert(2, onnx.helper.make_node("Equal", ["most", "zero"], ["black"]))
        graph.node.insert(3, onnx.helper.make_node("Cast", ["black"], ["weight"], to=1))
        graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1]), "one"))
        graph.node.insert(4, onnx.helper.make_node("Unsqueeze", ["weight", "one"], ["column"]))
        graph.node.insert(5, onnx.helper.make_node("Mul", ["column", "spoil"], ["spoiling"]))
        gemm = next(node for node in graph.node if "logits" in node.output)
        gemm.output[0] = "clean"
        position = list(graph.node).index(gemm) + 1
        graph.node.insert(position, onnx.helper.make_node("Add", ["clean", "spoiling"], ["logits"]))

    model = rewritten(exported, tmp_path / "draft.onnx", wrong_for_black)
    with pytest.raises(DisagreementError, match="on patterns"):
        judge(source, model, images_of(None))


def test_a_bisection_of_a_right_file_finds_nothing(source, exported):
    assert first_difference(source, exported, images_of(None)) is None


def test_a_bisection_of_values_it_does_not_know_says_so(source, exported, tmp_path):
    model = onnx.load(exported)
    made = {name for node in model.graph.node for name in node.output} - set(OUTPUTS)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"x_{name}" if name in made else name for name in names]
    path = tmp_path / "renamed.onnx"
    onnx.save(model, path)
    with pytest.raises(UsageError, match="no value inside it has a name"):
        first_difference(source, path, images_of(None))


def test_a_batch_axis_that_is_fixed_within_is_caught(source, exported, tmp_path):
    model = onnx.load(exported)
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    sizes = next(tensor for tensor in model.graph.initializer if tensor.name == reshape.input[1])
    sizes.CopyFrom(onnx.numpy_helper.from_array(np.int64([1, 128]), sizes.name))
    onnx.save(model, tmp_path / "draft.onnx")
    with pytest.raises(DisagreementError, match="fails on a batch of 2"):
        judge(source, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


def test_a_batch_axis_that_is_declared_fixed_is_refused(source, exported, tmp_path):
    model = onnx.load(exported)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "draft.onnx")
    with pytest.raises(MedonnxError, match="its batch size is 1, its contract says any"):
        judge(source, medinfer.load(tmp_path / "draft.onnx", "cpu"), images_of(None))


def test_no_file_is_left_where_the_verdict_is_against_it(source, tmp_path, monkeypatch):
    right = build.to_onnx
    monkeypatch.setattr(build, "to_onnx", lambda classifier, spec: right(scale_one_tensor(source).classifier, spec))
    with pytest.raises(DisagreementError, match=r"features\.12\.weight") as caught:
        build_file(source, tmp_path / "model.onnx", bisect=True)
    assert "No file was written" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_hardly_answers_is_refused(source, tmp_path):
    network = copy.deepcopy(source.classifier.network)
    with torch.no_grad():
        network.head[1].weight.mul_(1e-4)
    dull = replace(source, classifier=Classifier(network, source.spec.input.mean, source.spec.input.std).eval())
    with pytest.raises(DisagreementError, match="any two models would agree"):
        build_file(dull, tmp_path / "model.onnx")
    with torch.no_grad():
        network.head[1].weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        build_file(dull, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_single_image_is_enough_where_the_patterns_vary(source, exported, tmp_path, picture):
    cv2.imwrite(str(tmp_path / "one.png"), picture(40, 40))
    agreement = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path / "one.png"))
    assert agreement.differences.count == 1


def test_a_contract_that_wants_large_sides_is_exported_and_verified(make_source, spec, tmp_path):
    large = replace(spec, input=replace(spec.input, min_side=200))
    written = build_file(make_source(spec=large), tmp_path / "model.onnx")
    assert written.agreement.battery.count == 12
    assert first_difference(make_source(spec=large), tmp_path / "model.onnx", images_of(None)) is None
    assert replay(medinfer.load(tmp_path / "model.onnx", "cpu")).passes


def test_a_finished_file_that_does_not_replay_is_not_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "verify", lambda model: replace(replay(model), max_level_difference=2))
    with pytest.raises(DisagreementError, match="golden samples"):
        build_file(source, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_folder_are_spread_over_it_and_the_verdict_names_them_by_hash(source, exported, tmp_path):
    for i in range(30):
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), np.random.default_rng(i).integers(0, 256, (30, 30, 3), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"x")
    chosen = images_of(tmp_path, 10)
    assert len(chosen.images) == 10
    agreement = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path, None))
    assert (agreement.images, agreement.differences.count, agreement.unusable) == ("data", 30, 1)
    assert "1 images could not be read" in describe(agreement, images_of(tmp_path, None))
    again = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path, None))
    assert agreement.images_sha256 == again.images_sha256
    (tmp_path / "00.png").unlink()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    fewer = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path, None))
    assert (fewer.differences.count, fewer.unusable) == (29, 2)
    assert fewer.images_sha256 != agreement.images_sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        images_of(tmp_path / "empty")


def test_folders_named_like_classes_give_accuracy_and_auc_of_both_sides(source, exported, tmp_path, picture):
    for i in range(24):
        pixels = picture(40, 40, seed=i)
        name = source.spec.classes[int(source.logits(cv2.resize(pixels, (40, 48))[None]).argmax()) if i % 4 else i % 3]
        (tmp_path / name).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name / f"{i}.png"), pixels[..., ::-1])
    agreement = judge(source, medinfer.load(exported, "cpu"), images_of(tmp_path, None))
    assert 0.5 < agreement.accuracy.checkpoint < 1
    assert agreement.accuracy.file == agreement.accuracy.checkpoint
    assert "accuracy: checkpoint" in describe(agreement, images_of(tmp_path, None))


def test_decisions_at_operating_points_are_counted(make_source, spec, tmp_path):
    share = {
        "sensitivity": 0.9,
        "sensitivity_interval": (0.8, 1.0),
        "specificity": 0.9,
        "specificity_interval": (0.8, 1.0),
    }
    point = OperatingPoint(name="screening", positive=("a",), threshold=0.3, target=Target(metric="youden"), **share)
    agreement = build_file(make_source(spec=replace(spec, operating_points=(point,))), tmp_path / "m.onnx").agreement
    assert agreement.operating_point_flips == {"screening": 0}
    assert "screening: 0 decisions changed" in describe(agreement, images_of(None))


def test_no_tolerance_can_be_loosened_from_outside():
    from medexport.cli import cli

    options = {option for command in cli.commands.values() for p in command.params for option in p.opts}
    assert not [option for option in options if "tol" in option or "force" in option or "skip" in option]


def test_ties_are_listed_by_name(source, exported, tmp_path):
    agreement = judge(source, medinfer.load(exported, "cpu"), images_of(None))
    tied = replace(agreement, differences=replace(agreement.differences, ties=(1,)))
    for name in ("x.png", "y.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8))
    assert f"tie: {tmp_path / 'y.png'}" in describe(tied, images_of(tmp_path))
    assert "tie: drawn image 1" in describe(tied, images_of(None))


def test_a_label_that_changes_where_the_checkpoint_is_unsure_is_a_tie_and_no_flip(source, exported, tmp_path, picture):
    """The last layer is moved so that one image lies on the border between two classes."""
    pixels = np.stack([picture(48, 40, seed=i) for i in range(1, 9)])
    logits = source.logits(pixels)[4]
    first, second = np.argsort(logits)[[-1, -2]]
    network = copy.deepcopy(source.classifier.network)
    with torch.no_grad():
        network.head[1].bias[second] += float(logits[first] - logits[second])
    on_border = replace(source, classifier=Classifier(network, source.spec.input.mean, source.spec.input.std).eval())
    tilted = copy.deepcopy(network)
    with torch.no_grad():
        tilted.head[1].bias[second] += 4e-5 * (1 if on_border.logits(pixels)[4].argmax() == first else -1)
    other = replace(source, classifier=Classifier(tilted, source.spec.input.mean, source.spec.input.std).eval())
    draft = draft_of(other, tmp_path / "draft.onnx")
    images = tmp_path / "images"
    for i, label in enumerate(on_border.logits(pixels).argmax(axis=1)):
        folder = images / source.spec.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), pixels[i][..., ::-1])
    (images / "a.png").write_bytes(b"unreadable")
    reference = images_of(images)
    agreement = judge(on_border, medinfer.load(draft, "cpu"), reference)
    assert agreement.differences.label_flips == 0
    assert [Path(reference.name(i)).name for i in agreement.differences.ties] == ["4.png"]
    assert (agreement.accuracy.checkpoint, agreement.accuracy.file) == (1, 7 / 8)
    assert 0 < agreement.differences.max_probability < 1e-4


def test_a_decision_on_the_border_that_changes_is_counted(make_source, spec, tmp_path, picture):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(48, 40, seed=i)[..., ::-1])
    plain = make_source()
    pixels = np.stack([cv2.imread(str(tmp_path / f"{i}.png"))[..., ::-1] for i in range(4)])
    share = float(softmax(plain.logits(pixels))[2, 0])
    figures = {
        "sensitivity": 0.9,
        "sensitivity_interval": (0.8, 1),
        "specificity": 0.9,
        "specificity_interval": (0.8, 1),
    }
    # A hair above what the checkpoint says: it decides no, and a file that is a hair higher decides yes.
    threshold = min(1.0, share + 1e-6)
    point = OperatingPoint(
        name="screening", positive=("a",), threshold=threshold, target=Target(metric="youden"), **figures
    )
    pointed = make_source(spec=replace(spec, operating_points=(point,)))
    network = copy.deepcopy(pointed.classifier.network)
    with torch.no_grad():
        network.head[1].bias[0] += 5e-5
    other = replace(pointed, classifier=Classifier(network, spec.input.mean, spec.input.std).eval())
    draft = draft_of(other, tmp_path / "draft.onnx")
    agreement = judge(pointed, medinfer.load(draft, "cpu"), images_of(tmp_path))
    assert agreement.operating_point_flips == {"screening": 1}
