"""medexport: a classifier in torch becomes one ONNX file that proves it agrees with the original.

>>> import medexport
>>> medexport.export(module, spec, "model.onnx", data="images/")

takes any `nn.Module` with a `medinfer.spec.ModelSpec`; the command `medexport onnx ckpt.pt` takes what `medtrain fit`
wrote, or a foreign state_dict.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from medinfer.spec import Graph, ModelSpec

__all__ = ["export"]


def export(  # noqa: PLR0913 - all but three have a default
    module: nn.Module,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    images: int | None = 64,
    splits: str | os.PathLike[str] | None = None,
    graph: Graph | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Export any module; nothing is written unless the file agrees with it.

    Args:
        module: Takes images as `spec.input` prepares them, float32 (batch, channels, height, width) with mean and std
            applied; returns logits (batch, classes). It is copied, and stays as it is.
        spec: The contract. `graph`, `agreement` and `golden` are filled in.
        path: The .onnx file to write.
        data: An image or a folder that the verdict is given on; by default drawn images.
        images: How many of them; None takes all.
        splits: For int8: a CSV table with the columns path, label and split (train, validation, test); its paths begin
            at `data`. It is calibrated on the first, chosen on the second and judged on the third, all of them.
        graph: What the file takes and computes in; by default raw pixels in batches of any size, and fp32.
        overwrite: Replace an existing file.

    Returns:
        The contract as it stands in the file, with the verdict.

    Raises:
        DisagreementError: The file would disagree with the module.
        ModelError: The module cannot be exported.
        UsageError: The path is taken, the images cannot be used, or the module returns no logits.
        VariantError: An int8 file would lose too much, or be no faster than the fp32 file on this machine.
        MissingExtraError: torch, onnx, onnxscript or an onnxruntime is not installed.
    """
    require_torch()
    from medexport.build import build_file
    from medexport.source import from_module
    from medexport.reference import images_of
    from medexport.splits import images_of_splits
    from medinfer.errors import UsageError

    source = from_module(module, spec)
    reference = images_of(data, images)
    if splits is not None:
        if data is None or graph is None or graph.precision != "int8":
            raise UsageError("splits goes with data and Graph(precision='int8')")
        reference = images_of_splits(Path(splits), Path(data), source.spec)
    return build_file(source, path, graph=graph, images=reference, overwrite=overwrite)


def require_torch() -> None:
    """Raise MissingExtraError, which names the line that installs it, unless what an export needs is there."""
    from medinfer.errors import MissingExtraError

    for package, extra in {"torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
