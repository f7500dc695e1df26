"""The faults of model files, row by row: each is refused with exit code 4 and words that help, or answered rightly."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.faults import samples
from tests.faults.files import encode, noise

import medinfer
from medinfer.errors import ModelError
from medinfer.spec import SPEC_KEY, Graph


class Row(NamedTuple):
    """How a good model is spoilt, and what its refusal says (a pattern)."""

    number: int
    fault: str
    spoil: Callable[[Path], object]
    words: str


def rewritten(change):
    """Return a way to spoil a file: `change` is given the model, read."""

    def spoil(path):
        proto = onnx.load_from_string(path.read_bytes())
        change(proto)
        path.write_bytes(proto.SerializeToString())

    return spoil


def told(change):
    """Return a way to spoil the contract: `change` gets it as JSON, and returns what stands for it."""

    def spoil(proto):
        document = json.loads(proto.metadata_props[0].value)
        text = change(document)
        proto.metadata_props[0].value = json.dumps(document) if text is None else text

    return rewritten(spoil)


def set_in(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return told(change)


def outside(location, *, place=None, link=None):
    """Put the weights into another file: at `place`, or, where `link` is given, through a link made by it."""

    def spoil(path):
        proto = onnx.load_from_string(path.read_bytes())
        weights = next(one for one in proto.graph.initializer if one.name == "weights")
        there = path.parent / (place or "weights")
        there.parent.mkdir(exist_ok=True)
        if link:
            real = path.parent.parent / "elsewhere"
            real.write_bytes(weights.raw_data)
            link(real, there)
        elif place != "":
            there.write_bytes(weights.raw_data)
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location(path) if callable(location) else location)
        path.write_bytes(proto.SerializeToString())

    return spoil


def operator_of(domain):
    def change(proto):
        proto.graph.node[-1].domain = domain
        proto.opset_import.append(helper.make_opsetid(domain, 1))

    return rewritten(change)


def set_field(name, value):
    return rewritten(lambda proto: setattr(proto, name, value))


def newer(proto):
    proto.opset_import[0].version = 99


def wider(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 20


def floating(proto):
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def flat(proto):
    del proto.graph.input[0].type.tensor_type.shape.dim[3]


ONE_FILE = "A model must be one file"
FAULTS = [
    Row(1, "missing", lambda path: path.unlink(), "no such file.*medexport onnx"),
    Row(2, "of 0 bytes", lambda path: path.write_bytes(b""), "refuses it"),
    Row(3, "text", lambda path: path.write_text("hello"), "refuses it"),
    Row(3, "a PNG", lambda path: path.write_bytes(encode(noise(9, 9), "PNG")), "refuses it"),
    Row(3, "a folder", lambda path: (path.unlink(), path.mkdir()), "no such file"),
    Row(4, "cut off", lambda path: path.write_bytes(path.read_bytes()[:-500]), "refuses it"),
    Row(5, "without a contract", rewritten(lambda proto: proto.metadata_props.pop()), f"no {SPEC_KEY}.*medexport"),
    Row(6, "of a newer format", set_in("format", value=2), r"2 is newer.*Upgrade: pip install"),
    Row(7, "with a contract that is not JSON", told(lambda _: "{"), "not valid JSON"),
    Row(7, "with a contract over 64 MB", told(lambda spec: json.dumps(spec) + " " * (65 << 20)), "at most"),
    Row(7, "with NaN in its contract", told(lambda spec: json.dumps(spec).replace("0.0", "NaN", 1)), "NaN"),
    Row(7, "with a std of 0", set_in("input", "std", 1, value=0.0), r"input.std\[1\]: 0.0 is not positive"),
    Row(7, "with a class twice", set_in("classes", value=["a", "a", "b"]), "classes: not unique"),
    Row(7, "with a class too many", set_in("classes", value=[*"abcd"]), "output 'probabilities'"),
    Row(8, "of another width", rewritten(wider), "refuses it|its contract says"),
    Row(8, "of another type", rewritten(floating), "refuses it|its contract says"),
    Row(8, "of another rank", rewritten(flat), "refuses it|its contract says"),
    Row(9, "of a newer IR", set_field("ir_version", 99), r"99, max supported IR version: \d+. Upgrade onnxruntime"),
    Row(9, "of a newer opset", rewritten(newer), r"Opset 99.* till opset \d+. Upgrade onnxruntime"),
    Row(10, "whose weights are missing", outside("weights", place=""), ONE_FILE),
    Row(10, "whose weights lie beside it", outside("weights"), ONE_FILE),
    Row(11, "whose weights lie above it", outside("../above", place="../above"), ONE_FILE),
    Row(11, "whose weights have an absolute path", outside(lambda path: str(path.parent / "weights")), ONE_FILE),
    Row(11, "whose weights are a link that leads out", outside("weights", link=os.symlink), ONE_FILE),
    Row(12, "whose weights are a hard link", outside("weights", link=os.link), ONE_FILE),
    Row(15, "with an operator of nobody's", operator_of("evil"), "refuses it"),
]

OTHERWISE = (13, 14, 16, 17, 18, 19, 20)


def good(folder, build=samples.every_pixel, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(samples.model(build, contract=samples.spec(**fields)))
    return folder / "model.onnx"


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: f"M{row.number} {row.fault}")
def test_a_faulty_model_is_refused_with_4(row, tmp_path):
    path = good(tmp_path / "here")
    assert medinfer.load(path, "cpu").predict(noise(20, 20)).label
    row.spoil(path)
    with pytest.raises(ModelError) as caught:
        medinfer.load(path, "cpu")
    assert caught.value.exit_code == 4
    assert re.search(row.words, str(caught.value), re.DOTALL), caught.value
    assert len(str(caught.value)) < 1500


def test_the_command_ends_with_4_and_says_why_in_a_sentence(run, tmp_path):
    path = good(tmp_path / "here")
    path.write_bytes(b"")
    done = run("x.png", "-m", path, "--provider", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1


def test_m13_a_model_that_is_read_as_bytes_takes_no_weights_from_the_working_folder(tmp_path, monkeypatch):
    """Its name is not UTF-8, so onnxruntime gets its bytes, and would look for other files in the working folder."""
    path = good(tmp_path / "here")
    outside("weights")(path)
    named = Path(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.onnx"))
    path.rename(named)
    monkeypatch.chdir(named.parent)
    with pytest.raises(ModelError, match=ONE_FILE):
        medinfer.load(named, "cpu")


def test_m14_a_run_is_not_continued_with_another_model(run, tmp_path):
    """No list of hashes comes with a model; what a run writes holds the hash of the one that answered."""
    path = good(tmp_path / "here")
    (tmp_path / "a.png").write_bytes(encode(noise(20, 20), "PNG"))
    header = {"medinfer_journal": 1, "model_sha256": "0" * 64}
    (tmp_path / "r.csv.part").write_text(json.dumps(header) + "\n")
    words = ("a.png", "-m", path, "--provider", "cpu", "-o", "r.csv")
    done = run(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 2
    assert b"model_sha256" in done.stderr
    assert run(*words, "--overwrite", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "r.csv.meta.json").read_text())["model_sha256"] == medinfer.load(path, "cpu").sha256


def test_m16_answers_that_are_no_numbers_are_errors_and_the_run_ends_with_3(run, tmp_path):
    path = good(tmp_path / "here")
    proto = onnx.load(path)
    weights = next(one for one in proto.graph.initializer if one.name == "weights")
    weights.raw_data = np.full(weights.dims, np.inf, np.float32).tobytes()
    onnx.save(proto, path)
    (tmp_path / "a.png").write_bytes(encode(noise(20, 20), "PNG"))
    done = run("a.png", "-m", path, "--provider", "cpu", "--format", "csv", cwd=tmp_path)
    assert done.returncode == 3
    assert b"non_finite_output" in done.stdout


def test_m17_a_fixed_batch_is_kept_to_when_the_contract_says_it_and_refused_when_not(tmp_path):
    images = [noise(20, 20 + step) for step in range(5)]
    wanted = [one.raw for one in medinfer.load(good(tmp_path / "any"), "cpu").predict_batch(images)]

    def fixed(path):
        proto = onnx.load(path)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(proto, path)
        return path

    told = fixed(good(tmp_path / "told", graph=Graph(batch=1)))
    np.testing.assert_allclose([one.raw for one in medinfer.load(told, "cpu").predict_batch(images)], wanted, atol=1e-4)
    with pytest.raises(ModelError, match="its batch size is 1"):
        medinfer.load(fixed(good(tmp_path / "untold")), "cpu")


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_m18_an_empty_batch_is_never_sent(batch_size, tmp_path, monkeypatch):
    model = medinfer.load(good(tmp_path / "here"), "cpu", threads=1)
    sizes, session = [], model._session

    class Counted:
        def run(self, names, fed):
            sizes.append(len(next(iter(fed.values()))))
            return session.run(names, fed)

    monkeypatch.setattr(model, "_session", Counted())
    images = [noise(9, 9), b"", noise(9, 9), b"", b"", b"", b"", b""]
    assert sum(one.error is None for one in model.predict_many(images, batch_size=batch_size)) == 2
    assert list(model.predict_many([])) == []
    assert sizes
    assert min(sizes) >= 1


@pytest.mark.parametrize("number", [19, 20])
def test_m19_m20_a_graph_that_answers_otherwise_than_its_checkpoint_ends_verify_with_6(
    number, run, build_model, tmp_path
):
    """M19: a softmax before the output called logits. M20: other weights. Both are found by the samples in the file."""
    path = build_model(tmp_path / "m.onnx", golden=True)
    assert run("verify", path, "--provider", "cpu", cwd=tmp_path).returncode == 0
    proto = onnx.load(path)
    if number == 20:
        next(one for one in proto.graph.initializer if one.name == "matrix").CopyFrom(
            onnx.numpy_helper.from_array(np.float32([[24, -12, -12], [-10, 22.1, -14], [-8, -16, 26]]), "matrix")
        )
    else:
        product = next(node for node in proto.graph.node if node.output[0] == "logits")
        product.output[0] = "raw"
        proto.graph.node.insert(len(proto.graph.node) - 1, helper.make_node("Softmax", ["raw"], ["logits"], axis=1))
    onnx.save(proto, path)
    done = run("verify", path, "--provider", "cpu", cwd=tmp_path)
    assert done.returncode == 6, done.stderr


def test_every_fault_of_models_is_tested():
    assert {row.number for row in FAULTS} | set(OTHERWISE) == set(range(1, 21))
    here = " ".join(vars(sys.modules[__name__]))
    assert all(f"_m{number}_" in here for number in OTHERWISE)
