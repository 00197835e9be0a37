"""How a command ends: with a line for the user's mistakes, with a traceback for ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

OURS = ("configs", "data", "rewards", "learner", "actors", "cluster")


class UsageError(ValueError):
    """The command line or the surroundings ask for something that cannot be done."""


def report_errors(
    command: Callable[[Sequence[str] | None], int],
) -> Callable[..., int]:
    """Wrap a command's `main`: an error that was written for the user becomes one line and exit status 2."""

    @functools.wraps(command)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return command(argv)
        except (ValueError, OSError, RuntimeError) as error:
            if not is_for_the_user(error):
                raise
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped: every actor and engine has been ended", file=sys.stderr)
            return 130

    return wrapped


def is_for_the_user(error: Exception) -> bool:
    """Whether one of our packages raised the error for the user to read, or the system tells what ails a file."""
    return type(error).__module__.split(".")[0] in OURS or isinstance(error, OSError)
