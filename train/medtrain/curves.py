"""The history as TensorBoard curves, on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medinfer.errors import MissingExtraError


class Curves:
    """Writes one point of every curve after each epoch, below `out`/tensorboard; disabled it does nothing.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, out: Path, *, enabled: bool) -> None:
        self._writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingExtraError("tensorboard", "tensorboard") from None
            self._writer = SummaryWriter(str(out / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Mapping[str, float]) -> None:
        """Add an epoch's row of the history."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "epoch":
                side, _, figure = name.partition("_")
                self._writer.add_scalar(f"{figure}/{side}", value, int(row["epoch"]))
