"""`medexport web`: what is written, and what is refused. `peers/test_page.py` runs the page in a browser."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

import medinfer
from medexport.browser import PACKAGE, RUNTIME, VERSION, write_page
from medexport.build import build_file
from medexport.cli import cli
from medinfer.errors import ModelError, UsageError
from medinfer.spec import Graph


@pytest.fixture
def runtime(tmp_path):
    """A folder that looks like the npm package."""
    folder = tmp_path / "runtime"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": PACKAGE, "version": VERSION}))
    for name in RUNTIME:
        (folder / "dist" / name).write_bytes(b"runtime")
    return folder


def test_a_page_holds_all_that_it_needs_and_names_no_other_place(exported, runtime, tmp_path):
    done = CliRunner().invoke(cli, ["web", str(exported), str(tmp_path / "page"), "--runtime", str(runtime)])
    assert done.exit_code == 0, done.output
    page = tmp_path / "page"
    assert (page / "model.onnx").read_bytes() == exported.read_bytes()
    assert json.loads((page / "contract.json").read_text())["classes"] == ["a", "b", "c"]
    assert {path.name for path in (page / "ort").iterdir()} == {*RUNTIME, "package.json"}
    for path in page.glob("*.*"):
        if path.suffix in (".html", ".css", ".mjs"):
            text = path.read_text()
            assert not re.search(r"https?://|//cdn|innerHTML|eval\(", text)
            for name in re.findall(r'(?:from|src=|href=)\s*"([^":]+)"', text):
                assert (page / name).is_file()
    assert "default-src 'none'" in (page / "index.html").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_only_a_page_is_ever_replaced(exported, runtime, tmp_path):
    model = medinfer.load(exported, "cpu")
    write_page(model, tmp_path / "page", runtime)
    with pytest.raises(UsageError, match="exists"):
        write_page(model, tmp_path / "page", runtime)
    write_page(model, tmp_path / "page", runtime, overwrite=True)
    (tmp_path / "page" / "thesis.docx").write_text("years of work")
    with pytest.raises(UsageError, match="thesis"):
        write_page(model, tmp_path / "page", runtime, overwrite=True)
    assert (tmp_path / "page" / "thesis.docx").exists()


@pytest.mark.parametrize("graph", [Graph(input="float"), Graph(batch=4)], ids=["float", "batch of four"])
def test_a_model_that_the_page_cannot_feed_is_refused(graph, source, runtime, tmp_path):
    build_file(source, tmp_path / "m.onnx", graph=graph)
    with pytest.raises(ModelError, match="raw pixels"):
        write_page(medinfer.load(tmp_path / "m.onnx", "cpu"), tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (None, "no onnxruntime-web there"),
        ({"name": PACKAGE, "version": "1.0.0"}, "1.0.0"),
        ({"name": "other", "version": VERSION}, "other"),
    ],
)
def test_another_runtime_is_refused_with_the_line_that_brings_it(package, words, exported, runtime, tmp_path):
    (runtime / "package.json").unlink()
    if package:
        (runtime / "package.json").write_text(json.dumps(package))
    with pytest.raises(UsageError, match=words) as caught:
        write_page(medinfer.load(exported, "cpu"), tmp_path / "page", runtime)
    assert f"npm install {PACKAGE}@{VERSION}" in caught.value.hint


def test_the_example_for_node_prepares_images_as_the_page_does():
    from pathlib import Path

    here = Path(__file__).parents[2]
    example, page = here / "examples/node/preprocess.mjs", here / "export/medexport/web/preprocess.mjs"
    assert example.read_text() == page.read_text()
