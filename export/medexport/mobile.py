"""The same model in onnxruntime's own format, .ort: all that its small builds for phones and tablets read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnxruntime

from medinfer.errors import DisagreementError, ModelError
from medinfer.files import atomic_file
from medinfer.golden import verify
from medinfer.model import load

# Of the optimisations: it lays tensors out as this machine's vector units want them, which no phone's do.
NOT_PORTABLE = ["NchwcTransformer"]


def ort_path(model: Path) -> Path:
    """Return NAME.ort beside NAME.onnx."""
    return model.with_suffix(".ort")


def write_ort(model: Path, path: Path) -> None:
    """Convert an exported model, with its contract, having replayed its golden samples on the result.

    Args:
        model: The .onnx file.
        path: The .ort file; replaced if it exists.

    Raises:
        DisagreementError: The result does not answer as the golden samples tell.
        ModelError: onnxruntime cannot convert it.
    """
    with tempfile.TemporaryDirectory(prefix="medexport-") as folder:
        draft = Path(folder) / path.name
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(draft)
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=NOT_PORTABLE
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no other base
            raise ModelError(f"onnxruntime cannot write it as .ort: {error}") from None
        report = verify(load(draft, "cpu"))
        if not report.passes:
            raise DisagreementError(f"the .ort file does not answer as its golden samples tell: {report.as_text()}")
        with atomic_file(path, binary=True) as file:
            file.write(draft.read_bytes())
