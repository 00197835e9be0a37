"""The process of one reward function: it scores the groups that come over a socket until that is closed.

A function is called in the main thread, one group at a time; an `async def` is awaited in an event loop there, as many
groups as come. A function out of time is left by the signal LATE, which Python answers between two of its instructions
and in most that wait; a coroutine out of time is cancelled, and one that holds up the loop is told of. What neither
reaches, such as a loop in C, the owner ends together with this process.

Processes that the function starts end with this one, however it ends, but for those that leave its process group.

    python -m rewards.worker DESCRIPTOR OWNER      as `rewards.process` starts it
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from data.types import Example
from rewards.messages import LATE, Asked, Loaded, Refused, Stalled, packed, read, receive
from rewards.registry import RewardError, RewardFunction, Source, is_async, source_of
from rewards.terms import Term, load
from rewards.values import InvalidValues, Outcome, checked, listed, shown_value

STALL_SECONDS = 1.0
"""An event loop that has not turned for so long is held up by what runs in it."""

BEAT_SECONDS = 0.1
"""Between two signs of life of an event loop."""

_PR_SET_PDEATHSIG = 1

_GROUP: ContextVar[int | None] = ContextVar("group", default=None)
"""Number of the group that what runs now is to score, in tasks that its coroutine started too."""


def main() -> None:
    """Serve until the owner closes the socket or is gone."""
    descriptor, owner = map(int, sys.argv[1:])
    _end_with(owner)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who ignores it hands that on to what it starts
    with socket.socket(fileno=descriptor) as connection:
        connection.set_inheritable(False)
        os.register_at_fork(after_in_child=connection.close)  # the owner hears of this process's end, not of a child's
        _end_group_with_this()
        term: Term = read(connection)
        try:
            function = load(term)
        except RewardError as error:
            connection.sendall(packed(Refused(str(error))))
            return
        source = source_of(term.use, function)
        if is_async(function):
            asyncio.run(_Coroutines(term, function, source).serve(connection))
        else:
            _Calls(term, function, source).serve(connection)


class _Calls:
    """A function that is called."""

    def __init__(self, term: Term, function: RewardFunction, source: Source) -> None:
        self._term = term
        self._function = function
        self._source = source
        self._running = False
        signal.signal(LATE, self._leave)

    def serve(self, connection: socket.socket) -> None:
        """Answer one group after the other."""
        connection.sendall(packed(Loaded(is_async=False, source=self._source)))
        while True:
            try:
                asked: Asked = read(connection)
            except EOFError:
                return
            connection.sendall(packed((asked.number, self._outcome(asked))))

    def _outcome(self, asked: Asked) -> Outcome:
        try:
            return _judged(asked, self._call, self._source)
        except _Late:
            return _late(self._term, asked)

    def _call(self, completions: list[str], example: Example) -> list[Any]:
        asked = len(completions)  # the function may change the list
        self._running = True
        try:
            return listed(self._function(completions, example, **self._term.args), asked)
        finally:
            self._running = False

    def _leave(self, *_: Any) -> None:
        if self._running:
            raise _Late


class _Late(BaseException):
    """The limit has passed. No Exception, so that a function that catches those does not catch this one."""


class _Coroutines:
    """A function that is awaited."""

    def __init__(self, term: Term, function: RewardFunction, source: Source) -> None:
        self._term = term
        self._function = function
        self._source = source
        self._turned = time.monotonic()
        """When the event loop was last seen to turn."""

    async def serve(self, connection: socket.socket) -> None:
        """Answer each group when it is scored."""
        reader, writer = await asyncio.open_connection(sock=connection)

        def tell_who_stalls(*_: Any) -> None:
            number = _GROUP.get()
            if number is not None and time.monotonic() - self._turned > STALL_SECONDS:
                writer.write(packed(Stalled(number)))

        async def answer(asked: Asked) -> None:
            _GROUP.set(asked.number)
            writer.write(packed((asked.number, await self._outcome(asked))))

        signal.signal(LATE, tell_who_stalls)
        writer.write(packed(Loaded(is_async=True, source=self._source)))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            try:
                while True:
                    tasks.create_task(answer(await receive(reader)))
            except EOFError:
                os._exit(0)  # nobody waits for what still goes on

    async def _beat(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    async def _outcome(self, asked: Asked) -> Outcome:
        try:
            async with asyncio.timeout(self._term.timeout_seconds) as limit:
                given = await self._function(list(asked.completions), asked.example, **self._term.args)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a plug-in may raise anything
            return _late(self._term, asked) if limit.expired() else _raised(asked, error, self._source)
        return _judged(asked, lambda *_: given, self._source)


def _judged(asked: Asked, call: Callable[[list[str], Example], Any], source: Source) -> Outcome:
    """The outcome of a call."""
    try:
        return Outcome(checked(call(list(asked.completions), asked.example), len(asked.completions)))
    except InvalidValues as error:
        return Outcome.failed("invalid", len(asked.completions), str(error))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        return _raised(asked, error, source)


def _raised(asked: Asked, error: BaseException, source: Source) -> Outcome:
    """What a function raised, with the last line of its own file that led there, and where that was if elsewhere."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    own = [place for place in frames if place.rpartition(":")[0] == source.path] or frames[-1:]
    further = "" if own[-1] == frames[-1] else f", in {frames[-1]}"
    return Outcome.failed("raised", len(asked.completions), f"raised {shown_value(error)} at {own[-1]}{further}")


def _late(term: Term, asked: Asked) -> Outcome:
    why = f"gave nothing within timeout_seconds ({term.timeout_seconds:g} s)"
    return Outcome.failed("timeout", len(asked.completions), why)


def _end_with(owner: int) -> None:
    """Have this process killed when its owner is, even where it reads nothing any more."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != owner:
        os._exit(1)


def _end_group_with_this() -> None:
    """Have a process that outlives this one kill what is left of its group."""
    this = os.getpid()
    if os.getpgrp() != this:  # not started by `rewards.process`: the group is somebody else's
        return
    watched = os.pidfd_open(this)
    child = os.fork()
    if child:
        os.close(watched)
        os.waitpid(child, 0)
        return
    if os.fork():  # no child of the function's process, which may wait for all that it has
        os._exit(0)
    select.select([watched], [], [])
    os.killpg(this, signal.SIGKILL)


if __name__ == "__main__":
    main()
