"""SIGTERM and Ctrl-C during long work: what is under way is finished and saved, then the run ends.

Schedulers (Slurm, Kubernetes) send SIGTERM some seconds before they kill. The libraries install no handler by
themselves: a command line enters an `Interruption`.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from medinfer.command import Terminated


class Interruption:
    """Notes a signal instead of breaking off, while it is entered; a second signal breaks off at once."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._previous: dict[int, Any] = {}
        self._received: int | None = None

    def __enter__(self) -> Self:
        if self._enabled:
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def leave(self) -> None:
        """Raise what the signal means."""
        raise KeyboardInterrupt if self._received == signal.SIGINT else Terminated

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.leave()
        self._received = number
