"""How a command ends: with a line for the user's mistakes, with a traceback for ours."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from cluster import interrupt
from cluster.fingerprint import ROOMS
from data.errors import last_line

RAISED_BY_US = re.compile(rf"^(?:{'|'.join(ROOMS)})(?:\.\w+)+: (.+)", re.MULTILINE | re.DOTALL)
"""The last part of a traceback of one of our errors, and its message."""

LOST = (
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "OutOfMemoryError",
    "ObjectLostError",
    "OwnerDiedError",
    "ObjectReconstructionFailedError",
    "ObjectFetchTimedOutError",
)
"""Ray's errors of what somebody held who is gone, beside those of an actor that could not be made."""


class UsageError(ValueError):
    """The command line or the surroundings ask for something that cannot be done."""


def report_errors(
    command: Callable[[Sequence[str] | None], int],
) -> Callable[..., int]:
    """Wrap a command's `main`: an error that was written for the user becomes one line and exit status 2."""

    @functools.wraps(command)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        interrupt.begin()
        try:
            return command(argv)
        except Exception as error:
            message = for_the_user(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped: every actor and engine has been ended", file=sys.stderr)
            return 130

    return wrapped


@asynccontextmanager
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks, of whose errors the first is raised: the others are what it took with it."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise _first_of(failed) from None


def _first_of(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    error = failed.exceptions[0]
    return _first_of(error) if isinstance(error, BaseExceptionGroup) else error


def for_the_user(error: BaseException) -> str | None:
    """The message of an error that one of our packages raised for the user to read, or in which the system tells what
    ails a file; None for a defect.

    What an actor raised counts as if it were raised here. Ray wraps it, as `cause`; of an error in an actor's
    constructor only the text of the traceback is left.
    """
    cause = getattr(error, "cause", None)  # of a RayTaskError
    if isinstance(cause, BaseException):
        return for_the_user(cause)
    if getattr(error, "actor_init_failed", False):  # of an ActorDiedError
        raised = RAISED_BY_US.search(str(error))
        return raised[1].strip() if raised else None
    if type(error).__module__ == "ray.exceptions" and type(error).__name__ in LOST:
        why = last_line(error)
        return f"an actor or a node is lost ({why}); a run goes on from its last checkpoint with --resume"
    ours = type(error).__module__.split(".")[0] in ROOMS and isinstance(error, ValueError | RuntimeError)
    return str(error) if ours or isinstance(error, OSError) else None
