"""Progress on standard error: a line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import Self, TextIO

TERMINAL_SECONDS, LOG_SECONDS = 0.1, 30.0
BAR_WIDTH = 24


class Progress:
    """Counts steps and shows them; a context manager.

    Args:
        title: What is being done.
        total: Number of steps, if known.
        unit: What a step is, for the rate.
        stream: Where to write; standard error by default.
        enabled: False shows nothing (`--quiet`).
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        unit: str = "images",
        stream: TextIO | None = None,
        enabled: bool = True,
    ) -> None:
        self._title, self._unit = title, unit
        self.total = total
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._terminal = self._stream.isatty()
        self._every = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        self._start = self._shown = time.monotonic()
        self._done = 0
        self._note = ""

    def step(self, count: int = 1, note: str = "") -> None:
        """Count steps done; `note` stands at the end of the line."""
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        if self._enabled and now - self._shown >= self._every:
            self._shown = now
            self._show(self._line(now - self._start), "" if self._terminal else "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The bar goes away: what is worth keeping is said by whoever finishes.
        if self._enabled and self._terminal:
            self._show("", "")

    def _show(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._terminal else ""
        with contextlib.suppress(BrokenPipeError):  # nobody listens: no reason to end a run of hours
            self._stream.write(f"{start}{text}{end}")
            self._stream.flush()

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds else 0.0
        if self.total:
            filled = BAR_WIDTH * self._done // self.total
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            remaining = (self.total - self._done) / rate if rate else 0.0
            counted = f"[{bar}] {self._done}/{self.total}  {rate:.0f} {self._unit}/s  {remaining:.0f} s left"
        else:
            counted = f"{self._done} {self._unit}  {rate:.0f} {self._unit}/s"
        return f"{self._title} {counted}  {self._note}".rstrip()
