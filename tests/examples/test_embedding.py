"""docs/embedding.md: its examples run as they stand, and what it promises of the process is so."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from medinfer.spec import Abstention, Conformal, Graph, Outliers

PAGE = Path(__file__).parents[2] / "docs/embedding.md"


@pytest.fixture
def folder(tmp_path, build_model, model_spec):
    """What the page supposes: a model, with all that one can carry, an image, and a folder with a bad one."""
    limits = Abstention(
        conformal=Conformal(coverage=0.9, thresholds=(0.5, 0.5, 0.5), images=50),
        outliers=Outliers(threshold=0.9, in_distribution=0.95),
    )
    spec = model_spec(positive=("blue",), abstention=limits, graph=Graph(extra_outputs=("ood_score",)))
    build_model(tmp_path / "ckpt.onnx", spec, golden=True)
    cv2.imwrite(str(tmp_path / "scan.png"), np.full((20, 30, 3), (250, 30, 20), np.uint8))  # blue, in OpenCV's order
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "scan.png", tmp_path / "folder/good.png")
    (tmp_path / "folder/bad.png").write_text("no image")
    return tmp_path


def run(folder, code):
    """Run a program in a folder; returns what it prints."""
    (folder / "program.py").write_text(code)
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


# What the page says of the values that its examples make.
SAID = """
if __name__ == "__main__":
    assert {one.label for one in (from_bytes, from_array, seen, *answers)} == {"blue"}
    assert len({one.probability for one in (from_bytes, from_array, seen, *answers)}) == 1
    assert problem[0] == "not_an_image"
    assert report.passes
    assert rule.decide(seen).positive
    assert rule.decide(seen).probability == seen.probabilities["blue"]
    assert screen.decide(seen).status == "ok"
    assert tensor.shape == (12, 16, 3)
    assert tensor.dtype == "uint8"
    assert found == [["blue"], ["blue", "blue"]]
    try:
        quick.predict("scan.png")
    except medinfer.UsageError:
        pass
    else:
        raise AssertionError("a closed model answered")
"""


def test_the_pages_examples_run_in_order_and_give_what_it_says(folder):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 10
    lines = run(folder, "\n".join([*blocks, SAID])).splitlines()
    assert lines[:2] == ["folder/bad.png not_an_image", "folder/good.png blue"]


def test_the_pages_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


def test_the_page_names_every_public_error_of_the_runtime():
    for name in ("ImageError", "ModelError", "SpecError", "ProviderError", "ResourceError", "UsageError"):
        assert f"`{name}`" in PAGE.read_text()


# A program that notes what a library could do to its process, uses medinfer in all ways, and looks again.
LEAVES_ALONE = """
import json, logging, os, signal, socket, sys, threading
light = sorted({"numpy", "cv2", "onnxruntime"} & set(sys.modules))
import medinfer
light += sorted({"numpy", "cv2", "onnxruntime"} & set(sys.modules))
import cv2, numpy, onnxruntime

def process():
    return {
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "logging": [logging.root.level, len(logging.root.handlers), logging.raiseExceptions],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "files": sorted(os.path.join(*parts[:1], name) for parts in os.walk(".") for name in parts[2]),
        "threads": threading.active_count(),
        "random": repr(numpy.random.get_state()),
        "cv2": [cv2.getNumThreads(), cv2.useOptimized()],
        "float": str(numpy.geterr()),
        "hooks": [str(sys.excepthook), str(threading.excepthook), sys.getrecursionlimit()],
    }

def refuse(*words, **options):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.getaddrinfo = refuse
before = process()
with medinfer.load("ckpt.onnx", provider="cpu") as model:
    medinfer.verify(model)
    model.predict("scan.png")
    model.predict_batch(["scan.png", b"junk"])
    list(model.predict_many(medinfer.find_images("folder/"), batch_size=2))
after = process()
print(json.dumps({"light": light, "changed": [name for name in before if before[name] != after[name]]}))
"""


def test_the_library_leaves_the_process_as_it_was(folder):
    assert json.loads(run(folder, LEAVES_ALONE)) == {"light": [], "changed": []}


FORKED = """
import os, medinfer
model = medinfer.load("ckpt.onnx", provider="cpu")
wanted = model.predict("scan.png").probabilities
list(model.predict_many(["scan.png"] * 9))
child = os.fork()
if not child:
    seen = [one.probabilities for one in model.predict_many(["scan.png"] * 9)]
    os._exit(0 if seen == [wanted] * 9 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), model.predict("scan.png").probabilities == wanted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_model_answers_in_a_forked_process_and_goes_on_in_its_parent(folder):
    assert run(folder, FORKED).split() == ["0", "True"]
