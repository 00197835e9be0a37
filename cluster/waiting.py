"""Nothing waits without a limit: every wait on an actor goes through `bounded`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError

from actors import threads

Result = TypeVar("Result")

ANSWER_KEY = "cluster.actor_timeout_seconds"
"""The limit of every answer that has none of its own."""

GONE = (RayActorError, NodeDiedError, OutOfMemoryError)
"""What Ray raises for an actor that has ended: by itself, with its node, or by Ray since memory ran out."""

END_SECONDS = 5.0
"""Longest wait for Ray when something is ended. For a control service that is gone, as after a SIGTERM to every process
of a terminal or of a job, it would wait a minute."""


def ended(*ends: Callable[[], object]) -> None:
    """Do what ends something, one after the other, in a thread of its own, as far as Ray is there and in time."""

    def run() -> None:
        with suppress(RayError):  # where it ends too, what it held is gone with it
            for end in ends:
                end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(END_SECONDS)


async def in_thread(call: Callable[[], Result]) -> Result:
    """What a call gives that takes its time; nobody waits for its thread when the process ends."""
    return await asyncio.wrap_future(threads.in_thread(call))


class WorkerError(RuntimeError):
    """An actor could not be placed, or did not answer in time."""


async def bounded(call: Awaitable[Result], key: str, seconds: float, what: str, mend: str = "") -> Result:
    """What `call` gives, or an error when it has not given it in time.

    Args:
        call: an actor's answer, or several gathered.
        key: the configuration key of the limit.
        seconds: its value.
        what: tells what did not happen: "the log has not written step 3".
        mend: what may help, beside a higher limit.

    Raises:
        WorkerError: the limit has passed.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await call
    except TimeoutError:
        if not limit.expired():
            raise  # the actor's own
        hint = f"; {mend}" if mend else ""
        raise WorkerError(f"{what} within {key} ({seconds:g} s): raise {key} if it needs longer{hint}") from None
