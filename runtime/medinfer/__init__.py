"""medinfer: run an exported medical image classifier exactly as it was trained.

>>> import medinfer
>>> model = medinfer.load("ckpt.onnx", provider="cpu")
>>> seen = model.predict("scan.png")
>>> seen.label, seen.probability

Names are imported when first used, so that a command line's `--help` loads neither numpy nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medinfer.decision import Decision as Decision, Rule as Rule, find_rule as find_rule
    from medinfer.errors import (
        CheckpointError as CheckpointError,
        DisagreementError as DisagreementError,
        DivergenceError as DivergenceError,
        ImageError as ImageError,
        MedonnxError as MedonnxError,
        MissingExtraError as MissingExtraError,
        ModelError as ModelError,
        ProviderError as ProviderError,
        RecipeError as RecipeError,
        ResourceError as ResourceError,
        SpecError as SpecError,
        UsageError as UsageError,
        VariantError as VariantError,
    )
    from medinfer.golden import GoldenReport as GoldenReport, verify as verify
    from medinfer.imaging import preprocess as preprocess, read_image as read_image
    from medinfer.inputs import ImageSearch as ImageSearch, find_images as find_images
    from medinfer.model import Model as Model, load as load
    from medinfer.prediction import Prediction as Prediction
    from medinfer.screening import Screen as Screen, Screening as Screening, find_screen as find_screen
    from medinfer.spec import InputSpec as InputSpec, ModelSpec as ModelSpec

__version__ = "0.1.0"

_HOME = {
    "decision": ("Decision", "Rule", "find_rule"),
    "errors": (
        "CheckpointError",
        "DisagreementError",
        "DivergenceError",
        "ImageError",
        "MedonnxError",
        "MissingExtraError",
        "ModelError",
        "ProviderError",
        "RecipeError",
        "ResourceError",
        "SpecError",
        "UsageError",
        "VariantError",
    ),
    "golden": ("GoldenReport", "verify"),
    "imaging": ("preprocess", "read_image"),
    "inputs": ("ImageSearch", "find_images"),
    "model": ("Model", "load"),
    "prediction": ("Prediction",),
    "screening": ("Screen", "Screening", "find_screen"),
    "spec": ("InputSpec", "ModelSpec"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'medinfer' has no attribute {name!r}")
    value = getattr(import_module(f"medinfer.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
