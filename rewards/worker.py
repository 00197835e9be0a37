"""The process of one reward function: it scores the groups that come over a socket until that is closed.

A function is called in the main thread, one group at a time; an `async def` is awaited in an event loop there, as many
groups as come. A function out of time is left by the signal LATE, which Python answers between two of its instructions
and in most that wait; a coroutine out of time is cancelled. What neither reaches, such as a loop in C, the owner ends
together with this process.

    python -m rewards.worker DESCRIPTOR OWNER      as `rewards.process` starts it
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from data.types import Example
from rewards.messages import LATE, Asked, Loaded, Refused, packed, read, receive
from rewards.registry import RewardError, RewardFunction, is_async, load_reward
from rewards.terms import Term
from rewards.values import InvalidValues, Outcome, checked

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the owner closes the socket or is gone."""
    descriptor, owner = map(int, sys.argv[1:])
    _end_with(owner)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, which closes the socket
    with socket.socket(fileno=descriptor) as connection:
        term: Term = read(connection)
        try:
            function = load_reward(term.use, term.args)
        except RewardError as error:
            connection.sendall(packed(Refused(str(error))))
            return
        if is_async(function):
            signal.signal(LATE, signal.SIG_IGN)
            asyncio.run(_Coroutines(term, function).serve(connection))
        else:
            _Calls(term, function).serve(connection)


class _Calls:
    """A function that is called."""

    def __init__(self, term: Term, function: RewardFunction) -> None:
        self._term = term
        self._function = function
        self._running = False
        signal.signal(LATE, self._leave)

    def serve(self, connection: socket.socket) -> None:
        """Answer one group after the other."""
        connection.sendall(packed(Loaded(is_async=False)))
        while True:
            try:
                asked: Asked = read(connection)
            except EOFError:
                return
            connection.sendall(packed((asked.number, self._outcome(asked))))

    def _outcome(self, asked: Asked) -> Outcome:
        try:
            return _judged(asked, self._call)
        except _Late:
            return _late(self._term, asked)

    def _call(self, completions: list[str], example: Example) -> list[Any]:
        self._running = True
        try:
            return list(self._function(completions, example, **self._term.args))
        finally:
            self._running = False

    def _leave(self, *_: Any) -> None:
        if self._running:
            raise _Late


class _Late(BaseException):
    """The limit has passed. No Exception, so that a function that catches those does not catch this one."""


class _Coroutines:
    """A function that is awaited."""

    def __init__(self, term: Term, function: RewardFunction) -> None:
        self._term = term
        self._function = function

    async def serve(self, connection: socket.socket) -> None:
        """Answer each group when it is scored."""
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(packed(Loaded(is_async=True)))

        async def answer(asked: Asked) -> None:
            writer.write(packed((asked.number, await self._outcome(asked))))

        async with asyncio.TaskGroup() as answers:
            try:
                while True:
                    answers.create_task(answer(await receive(reader)))
            except EOFError:
                os._exit(0)  # nobody waits for what still goes on

    async def _outcome(self, asked: Asked) -> Outcome:
        try:
            async with asyncio.timeout(self._term.timeout_seconds) as limit:
                given = await self._function(list(asked.completions), asked.example, **self._term.args)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            return _late(self._term, asked) if limit.expired() else _raised(asked, error)
        return _judged(asked, lambda *_: given)


def _judged(asked: Asked, call: Callable[[list[str], Example], Any]) -> Outcome:
    """The outcome of a call."""
    try:
        return Outcome(checked(call(list(asked.completions), asked.example), len(asked.completions)))
    except InvalidValues as error:
        return Outcome.failed("invalid", len(asked.completions), str(error))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        return _raised(asked, error)


def _raised(asked: Asked, error: Exception) -> Outcome:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Outcome.failed("raised", len(asked.completions), f"raised {error!r} at {frame.filename}:{frame.lineno}")


def _late(term: Term, asked: Asked) -> Outcome:
    why = f"gave nothing within timeout_seconds ({term.timeout_seconds:g} s)"
    return Outcome.failed("timeout", len(asked.completions), why)


def _end_with(owner: int) -> None:
    """Have this process killed when its owner is, even where it reads nothing any more."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != owner:
        os._exit(1)


if __name__ == "__main__":
    main()
