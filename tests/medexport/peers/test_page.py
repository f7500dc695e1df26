"""The page of `medexport web` in a headless Chromium: it says what Python says, and asks nobody else.

`make test-peers` brings onnxruntime-web; a Chromium has to be there.
"""

from __future__ import annotations

import functools
import http.server
import os
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import medinfer
from medexport.browser import write_page
from medexport.build import build_file
from medinfer.inputs import find_images
from medinfer.spec import Crop, CropFit, Graph

BUILD = Path(os.environ.get("MEDONNX_PEERS", "build")).resolve()
RUNTIME = BUILD / "node/node_modules/onnxruntime-web"
DATA = Path(os.environ.get("MEDONNX_DATA", "../shared/data")).resolve()
FAILED = "document.getElementById('status')?.className == 'failed'"
SHOWN = f"document.getElementById('answer')?.hidden === false || {FAILED}"
ROWS = "[...document.querySelectorAll('#probabilities tr')].map(row => [...row.children].map(cell => cell.textContent))"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RUNTIME.exists(), reason=f"{RUNTIME} is not there: make test-peers installs it"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain static server."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def serve():
    servers = []

    def start(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def images():
    """Real images where there are some, or drawn ones; PNG, for which every decoder gives the same pixels."""
    found = [str(path) for path in find_images(DATA / "cardiomegaly")] if (DATA / "cardiomegaly").exists() else []
    return found[:: max(1, len(found) // 20)][:20]


@pytest.mark.parametrize("kind", ["image", "pixels", "crop"])
def test_the_page_says_what_python_says_of_the_same_pixels(kind, make_source, spec, serve, page, picture, tmp_path):
    wanted = replace(spec.input, interpolation="linear" if kind == "image" else "area")
    if kind == "crop":
        wanted = replace(wanted, fit=CropFit(crop=Crop(resize=60)), min_side=60)
    source = make_source(spec=replace(spec, input=wanted))
    graph = Graph(input="image", batch=1, extra_outputs=("heatmap",)) if kind == "image" else Graph()
    build_file(source, tmp_path / "m.onnx", graph=graph)
    build_file(source, tmp_path / "default.onnx")
    write_page(medinfer.load(tmp_path / "m.onnx", "cpu"), tmp_path / "page", RUNTIME)
    real = images()
    paths = []
    for i in range(20):
        pixels = cv2.imread(real[i]) if real else picture(60 + 7 * i, 200 - 5 * i, 3, seed=i)
        paths.append(tmp_path / "page" / f"{i}.png")
        cv2.imwrite(str(paths[-1]), pixels)
    inside, default = (medinfer.load(tmp_path / name, "cpu") for name in ("m.onnx", "default.onnx"))
    address = serve(tmp_path / "page")
    for path in paths:
        page.open(f"{address}?image={path.name}")
        page.wait(f"document.readyState == 'complete' && ({SHOWN})")
        rows = page.value(ROWS)
        assert [row[0] for row in rows] == ["a", "b", "c"], page.value("document.body.innerText")
        found = np.array([float(row[1]) for row in rows])
        assert np.abs(found - list(inside.predict(path).probabilities.values())).max() <= 1e-4
        assert int(found.argmax()) == default.classes.index(default.predict(path).label)
    assert page.messages == []
    assert all(asked.startswith((address, "blob:", "data:")) for asked in page.requests)
    assert page.value("document.getElementById('explained').hidden") == (kind != "image")


def test_a_name_from_the_model_is_text_and_a_bad_image_is_told(make_source, spec, serve, page, tmp_path):
    hostile = "<img src=x onerror=document.title='broken'>"
    build_file(make_source(spec=replace(spec, classes=(hostile, "b", "c"))), tmp_path / "m.onnx")
    write_page(medinfer.load(tmp_path / "m.onnx", "cpu"), tmp_path / "page", RUNTIME)
    cv2.imwrite(str(tmp_path / "page/x.png"), np.zeros((50, 50, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "page/deep.png"), np.zeros((50, 50), np.uint16))
    (tmp_path / "page/bad.png").write_bytes(b"no image")
    address = serve(tmp_path / "page")
    page.open(f"{address}?image=x.png")
    page.wait(SHOWN)
    assert page.value(ROWS)[0][0] == hostile
    assert page.value("document.title") == "tried"
    for name, words in (("deep.png", "16 bits"), ("bad.png", "cannot be answered")):
        page.open(f"{address}?image={name}")
        page.wait(FAILED)
        assert words in page.value("document.getElementById('status').textContent")


def test_a_browser_that_computes_otherwise_does_not_answer(exported, serve, page, tmp_path):
    write_page(medinfer.load(exported, "cpu"), tmp_path / "page", RUNTIME)
    contract = (tmp_path / "page/contract.json").read_text()
    start = contract.index('"logits":[') + len('"logits":[')
    (tmp_path / "page/contract.json").write_text(contract[:start] + "9" + contract[start:].lstrip("-"))
    page.open(serve(tmp_path / "page"))
    page.wait(FAILED)
    assert "does not reproduce" in page.value("document.getElementById('status').textContent")
    assert page.value("document.getElementById('file').disabled")
