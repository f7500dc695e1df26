"""Every error that medonnx raises on purpose, with the exit code of its command line.

    MedonnxError                 1   the base: catch this one
    ├── UsageError               2   the request or the data is refused
    │   ├── MissingExtraError    2   an optional package is not installed
    │   └── RecipeError          2   a training recipe is malformed
    ├── ImageError               3   one image cannot be used; `code` says why
    ├── TooManyFailuresError     3   more inputs failed than were allowed to; the run stopped
    ├── ModelError               4   an .onnx file is refused
    │   └── SpecError            4   ... because its contract is malformed; `path` names the field
    ├── CheckpointError          4   a checkpoint is refused
    ├── ProviderError            5   the execution provider asked for cannot be had
    ├── DisagreementError        6   two models that must agree do not
    ├── ResourceError            7   out of disk or memory
    ├── DivergenceError          8   training produced NaN or infinity
    └── VariantError             9   a smaller or faster variant of a model is not worth shipping

A message has three parts: what, which value, and (as `hint`) what to do about it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args


class MedonnxError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong, with the value that is wrong.
        hint: What to do about it; a sentence, or empty.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message: Final = message
        self.hint: Final = hint

    def __str__(self) -> str:
        # After a message of several lines the hint has a line of its own.
        end = "" if self.message.endswith("\n") else ". "
        return f"{self.message}{end}{self.hint}" if self.hint else self.message


class UsageError(MedonnxError):
    """The request, or the data it points to, is refused."""

    exit_code = 2


class MissingExtraError(UsageError):
    """An optional package is needed and not installed; the hint is the line that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} is not installed", hint=f'Install it: pip install "medonnx[{extra}]"')


class RecipeError(UsageError):
    """A training recipe is malformed."""


ImageCode = Literal[
    "not_found",
    "permission_denied",
    "not_regular_file",
    "os_error",
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "unsupported_dtype",
    "multi_frame",
    "too_large",
    "too_small",
    "truncated",
    "corrupt",
    "invalid_dicom",
    "missing_extra",
    "non_finite_output",
]
IMAGE_CODES: tuple[str, ...] = get_args(ImageCode)


class ImageError(MedonnxError):
    """One image cannot be used; a run over many records it and goes on.

    Args:
        code: One of `IMAGE_CODES`, stable, for programs to branch on.
    """

    exit_code = 3

    def __init__(self, code: ImageCode, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code: Final = code


class TooManyFailuresError(MedonnxError):
    """More inputs failed than were allowed to, so the run stopped."""

    exit_code = 3


class ModelError(MedonnxError):
    """A model file is refused."""

    exit_code = 4


class SpecError(ModelError):
    """A contract is malformed.

    Args:
        path: The field, from the root of the document: `input.mean`.
        problem: What is wrong with its value.
    """

    def __init__(self, path: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem, hint=hint)
        self.path: Final = path
        self.problem: Final = problem


class CheckpointError(MedonnxError):
    """A checkpoint is refused."""

    exit_code = 4


class ProviderError(MedonnxError):
    """The execution provider asked for is not the one that would run."""

    exit_code = 5


class DisagreementError(MedonnxError):
    """An exported model does not say what its original says."""

    exit_code = 6


class ResourceError(MedonnxError):
    """Out of disk or memory."""

    exit_code = 7


class DivergenceError(MedonnxError):
    """Training produced a loss that is not finite."""

    exit_code = 8


class VariantError(MedonnxError):
    """A variant of a model is further from it than allowed, or no faster; the message has the figures."""

    exit_code = 9
