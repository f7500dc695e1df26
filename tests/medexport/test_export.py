"""An exported file: self-contained, reproducible, and the same to every host."""

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest

import medinfer
from medexport.build import build_file
from medinfer.errors import UsageError
from medinfer.spec import Calibration, Graph


def test_the_file_agrees_with_its_source_and_says_so(exported):
    spec = medinfer.load(exported, "cpu").spec
    assert spec.agreement is not None
    assert spec.agreement.images == "synthetic"
    assert spec.agreement.batches == (1, 2, 3, 7, 16)
    for found in (spec.agreement.differences, spec.agreement.battery):
        assert found.count >= 10
        assert found.label_flips == 0
        assert found.max_logit <= found.tolerance
    assert spec.agreement.differences.logit_spread > 1


def test_two_exports_are_the_same_bytes(source, exported, tmp_path):
    build_file(source, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported):
    import getpass
    from pathlib import Path

    content = exported.read_bytes()
    for word in (str(Path.home()), getpass.getuser() + "/", "site-packages", ".py", "stack_trace", "/tmp"):
        assert word.encode() not in content


def test_opset_and_ir_version_are_those_that_older_runtimes_read(exported):
    model = onnx.load(exported)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_raw_pixels_fed_by_plain_onnxruntime_give_the_checkpoints_answer(source, exported):
    import onnxruntime

    pixels = np.random.default_rng(1).integers(0, 256, (5, 48, 40, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    probabilities, logits = session.run(None, {"image": pixels})
    assert np.allclose(logits, source.logits(pixels), atol=1e-4 * np.ptp(logits))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_calibration_divides_the_logits_for_the_probabilities_only(make_source, spec, tmp_path):
    spec = replace(spec, calibration=Calibration(temperature=3.0))
    warm = make_source(spec=spec)
    build_file(warm, tmp_path / "warm.onnx")
    seen = medinfer.load(tmp_path / "warm.onnx", "cpu").predict(np.full((50, 60, 3), 90, np.uint8))
    logits = np.array(list(seen.logits.values()))
    powers = np.exp((logits - logits.max()) / 3)
    assert np.allclose(list(seen.probabilities.values()), powers / powers.sum(), atol=1e-5)


def test_gray_contracts_export_too(make_source, spec, tmp_path):
    gray = replace(spec, input=replace(spec.input, color="gray", mean=(0.5,), std=(0.2,)))
    agreement = build_file(make_source(spec=gray), tmp_path / "gray.onnx").agreement
    assert agreement.differences.label_flips == 0


def test_an_existing_file_is_kept_unless_told_otherwise(source, exported):
    before = hashlib.sha256(exported.read_bytes()).digest()
    with pytest.raises(UsageError, match="--overwrite"):
        build_file(source, exported)
    assert hashlib.sha256(exported.read_bytes()).digest() == before


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_floats_and_fixed_batches_answer_like_raw_pixels(source, exported, tmp_path, picture, batch):
    path = tmp_path / "model.float.onnx"
    build_file(source, path, graph=Graph(input="float", batch=batch))
    images = [picture(30 + i, 50 - i, seed=i) for i in range(7)]
    wanted = medinfer.load(exported, "cpu").predict_batch(images)
    model = medinfer.load(path, "cpu")
    for found in (model.predict_batch(images), list(model.predict_many(images)), [model.predict(i) for i in images]):
        for one, other in zip(found, wanted, strict=True):
            assert np.allclose(one.scores, other.scores, atol=1e-5)


def test_a_float_file_takes_rgb_floats_on_0_1_channels_first(source, tmp_path):
    import onnxruntime

    path = tmp_path / "model.float.onnx"
    build_file(source, path, graph=Graph(input="float"))
    pixels = np.random.default_rng(1).integers(0, 256, (5, 48, 40, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = (pixels / 255).astype(np.float32).transpose(0, 3, 1, 2)
    _, logits = session.run(None, {"pixel_values": fed})
    assert np.allclose(logits, source.logits(pixels), atol=1e-4 * np.ptp(logits))
