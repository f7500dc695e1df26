"""A model in several processes: forked, pickled, closed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import medinfer
from medinfer.errors import ModelError, UsageError


@pytest.fixture
def images(picture):
    return [picture(12 + seed, 16, 3, seed=seed) for seed in range(6)]


def answers(predictions):
    return np.array([one.scores for one in predictions])


def test_a_pickled_model_is_opened_again_with_what_it_was_opened_with(tiny_model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    model = medinfer.load(tiny_model.name, "cpu", threads=3, latency=True, max_pixels=12 * 16)
    packed = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(packed)
    assert (again.provider, again.threads, again.precision) == (model.provider, model.threads, model.precision)
    assert again._session.get_session_options().intra_op_num_threads == 3
    assert np.array_equal(answers([again.predict(images[0])]), answers([model.predict(images[0])]))
    assert again.predict_batch(images[1:2])[0].error.code == "too_large"


def test_a_pickled_model_never_becomes_another_one(build_model, model_spec, tmp_path):
    path = build_model(tmp_path / "m.onnx", model_spec())
    packed = pickle.dumps(medinfer.load(path, "cpu"))
    build_model(path, model_spec(name="another"))
    with pytest.raises(ModelError, match="not the file that was pickled"):
        pickle.loads(packed)


def test_a_pool_of_processes_answers_as_one_process_does(tiny_model, images):
    model = medinfer.load(tiny_model, "cpu")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(model.predict, images))
    assert np.array_equal(answers(found), answers(map(model.predict, images)))


FORKED = """
import os, sys
import medinfer, numpy as np
model = medinfer.load(sys.argv[1], "cpu", threads=2, latency=sys.argv[2] == "latency")
image = np.full((40, 40, 3), (90, 10, 200), np.uint8)
wanted, inherited = model.predict(image), model._session
child = os.fork()
if not child:
    # Left as multiprocessing leaves: onnxruntime 1.31 starts a thread when it is imported, and a fork that ends as a
    # program does waits for that one for ever, whether it used it or not.
    code = 1
    try:
        seen = [*model.predict_many([image] * 20), model.predict(image)]
        assert all(np.array_equal(one.scores, wanted.scores) for one in seen)
        # Another thread may have held a lock of the session that the fork copied.
        assert model._session is not inherited
        code = 0
    finally:
        os._exit(code)
_, status = os.waitpid(child, 0)
assert np.array_equal(model.predict(image).scores, wanted.scores)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_forked_process_answers(mode, tiny_model):
    """From a session of its own: what the fork copied has lost its threads, and maybe a lock."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, tiny_model, mode], timeout=60, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_a_model_is_closed_at_the_end_of_its_block(tiny_model, images):
    with medinfer.load(tiny_model, "cpu") as model:
        assert model.predict(images[0]).label
    with pytest.raises(UsageError, match="closed"):
        model.predict(images[0])
    model.close()
