"""What the three command lines share: exit codes, messages, signals, `--debug`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import click

from medinfer.errors import MedonnxError

INTERRUPTED, TERMINATED, INTERNAL, OUT_OF_RESOURCES = 130, 143, 1, 7
DEBUG = "--debug"
DISCLAIMER = "Research use only; not a medical device."


class Group(click.Group):
    """A group that takes `--debug` in any place: whoever meets an error types it at the end of the line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take out `--debug`, which `run` has seen already."""
        return super().parse_args(ctx, [word for word in args if word != DEBUG] or args)


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt it passes through every `except Exception`."""


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command line as a process: sets up signals and streams, and exits with the project's codes."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding cannot show must not end a run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module="pydicom")  # it warns of each value that it repairs
    debug = DEBUG in sys.argv
    try:
        code = _guarded(lambda: command.main(prog_name=name, standalone_mode=False), debug=debug)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more while closing the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def tell(message: str) -> None:
    """Say something to the person: on standard error, for standard output is for results."""
    with contextlib.suppress(BrokenPipeError):  # nobody listens: no reason to end a run of hours
        click.echo(message, err=True)


def _guarded(main: Callable[[], Any], *, debug: bool) -> int:
    """Run and return the exit code, having told the person what went wrong."""
    try:
        return int(main() or 0)
    except BrokenPipeError:
        raise
    except SystemExit:
        # click's own way to leave when the reader has gone, and its only one without standalone mode.
        return 0
    except (KeyboardInterrupt, click.Abort):
        tell("Interrupted.")
        return INTERRUPTED
    except Terminated:
        tell("Terminated.")
        return TERMINATED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: one sentence in place of a traceback
        if debug:
            traceback.print_exc()
        return _explain(error)


def _explain(error: Exception) -> int:
    if isinstance(error, MedonnxError):
        tell(f"Error: {error}")
        return error.exit_code
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        tell(f"Error: out of memory or disk: {error or type(error).__name__}")
        return OUT_OF_RESOURCES
    if isinstance(error, OSError):
        tell(f"Error: {error.filename or 'file'}: {error.strerror or error}")
        return 2
    tell(f"Internal error: {type(error).__name__}: {error}. Run with --debug for the traceback, and report it.")
    return INTERNAL


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
