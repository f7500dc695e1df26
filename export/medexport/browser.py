"""A static page that runs a model in the browser; nothing is sent anywhere, and no other server is asked."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from medinfer.errors import ModelError, UsageError
from medinfer.model import Model

PAGE = ("index.html", "style.css", "app.mjs", "model.mjs", "preprocess.mjs")
# The runtime of the page, as it comes from npm; another version has other names for its files.
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_page(model: Model, folder: Path, runtime: Path, *, overwrite: bool = False) -> None:
    """Write a page that any static server can serve, offline too.

    Args:
        model: Opened by `medinfer.load`: fp32, fed with images one by one (`--input image`) or with pixels.
        folder: Made, whole or not at all.
        runtime: The folder of the npm package onnxruntime-web.
        overwrite: Replace an existing folder.

    Raises:
        ModelError: The page cannot run such a model.
        UsageError: The folder exists, or the runtime is not there or of another version.
    """
    _check_model(model)
    _check_runtime(runtime)
    _check_folder(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        made = Path(place) / folder.name
        (made / "ort").mkdir(parents=True)
        for name in PAGE:
            (made / name).write_bytes((files("medexport") / "web" / name).read_bytes())
        for name in RUNTIME:
            shutil.copyfile(runtime / "dist" / name, made / "ort" / name)
        shutil.copyfile(runtime / "package.json", made / "ort" / "package.json")
        shutil.copyfile(model.path, made / "model.onnx")
        (made / "contract.json").write_text(model.spec.dumps() + "\n", encoding="ascii")
        if folder.exists():
            shutil.rmtree(folder)  # nothing but an earlier page: see `_check_folder`
        made.rename(folder)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything unasked, and anything but a page even if asked."""
    if not folder.exists():
        return
    if not overwrite:
        raise UsageError(f"{folder} exists", hint="Name another folder, or replace it: --overwrite.")
    others = {path.name for path in folder.iterdir()} - {*PAGE, "ort", "model.onnx", "contract.json"}
    if others:
        raise UsageError(
            f"{folder} holds more than a page: {', '.join(sorted(others)[:3])}", hint="Name another folder."
        )


def _check_model(model: Model) -> None:
    graph = model.spec.graph
    assert graph is not None  # medinfer.load refuses a file without
    if graph.input == "float" or graph.precision != "fp32" or (graph.batch or 1) != 1 or not model.spec.golden:
        hint = "Export it with --input image, or as it is by default."
        raise ModelError(f"{model.path}: the page feeds raw pixels, one image at a time, to a model in fp32", hint=hint)


def _check_runtime(runtime: Path) -> None:
    hint = f"npm install {PACKAGE}@{VERSION}; --runtime names the folder it lies in."
    try:
        found = json.loads((runtime / "package.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{runtime}: no {PACKAGE} there", hint=hint) from None
    if (found.get("name"), found.get("version")) != (PACKAGE, VERSION):
        raise UsageError(f"{runtime}: {found.get('name')} {found.get('version')}", hint=hint)
    missing = [name for name in RUNTIME if not (runtime / "dist" / name).is_file()]
    if missing:
        raise UsageError(f"{runtime}: {', '.join(missing)} missing", hint=hint)
