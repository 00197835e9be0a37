"""One reward function in a process of its own (`rewards.worker`), so that it has a limit whatever it does.

    limit passed ---> told to stop ---> the outcome is `timeout`
                          +-- GRACE_SECONDS ---> the process is ended, and another starts with the next group

What a function crashes is its own process; the groups that it was to score then are dropped as `reward_died`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from data.types import Example
from rewards.messages import LATE, Asked, Loaded, Refused, packed, receive
from rewards.registry import RewardError
from rewards.terms import Term
from rewards.values import Fault, Outcome

GRACE_SECONDS = 2.0
"""How long a function that was told to stop may take for it."""

END_SECONDS = 5.0
"""How long a process that was killed may take to be gone."""


class RewardProcess:
    """Scores groups with one term.

    Args:
        term: what to score with.
        start_seconds: limit of a start, in which the module of the function is imported.
    """

    def __init__(self, term: Term, start_seconds: float) -> None:
        self.term = term
        self._start_seconds = start_seconds
        self._starting = asyncio.Lock()
        self._worker: _Worker | None = None
        self._places: asyncio.Semaphore | None = None
        """Groups that the function may be given, known when it has been loaded."""

    async def start(self) -> None:
        """Load the function, unless a process has it.

        Raises:
            RewardError: it cannot be used, or was not there in time.
        """
        await self._there()

    async def judge(self, completions: Sequence[str], example: Example) -> Outcome:
        """What the function makes of a group's completions, as soon as it has a place for them; raises as `start`."""
        await self._there()
        assert self._places is not None
        async with self._places:
            worker = await self._there()  # what had the place before may have taken the process with it
            started = time.perf_counter()
            outcome = await worker.ask(completions, example, self.term.timeout_seconds)
            return dataclasses.replace(outcome, seconds=time.perf_counter() - started)

    async def end(self) -> None:
        """End the process."""
        if self._worker is not None:
            await self._worker.end()

    async def _there(self) -> _Worker:
        async with self._starting:
            if self._worker is None or self._worker.lost:
                self._worker = worker = await _started()
                try:
                    async with asyncio.timeout(self._start_seconds):
                        is_async = await worker.load(self.term)
                except TimeoutError as error:
                    limit = f"{self._start_seconds:g} s"
                    raise RewardError(f"rewards: {self.term.use!r} has not been loaded within {limit}") from error
                finally:
                    if not worker.loaded:
                        await worker.end()
                if self._places is None:
                    self._places = asyncio.Semaphore(self.term.concurrency if is_async else 1)
            return self._worker


class _Worker:
    """One process, from its start until it is lost."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.loaded = False
        self.lost = False
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[int, asyncio.Future[Outcome]]] = {}
        """Completions and answer of each group that it has, by number."""
        self._listening: asyncio.Task[None] | None = None

    async def load(self, term: Term) -> bool:
        """Have it load the function; gives whether that is asynchronous."""
        self._writer.write(packed(term))
        try:
            answer: Loaded | Refused = await receive(self._reader)
        except (EOFError, ConnectionError) as error:
            raise RewardError(f"rewards: {term.use!r}: {await self._how_it_ended()} while it was loaded") from error
        if isinstance(answer, Refused):
            raise RewardError(answer.why)
        self.loaded = True
        self._listening = asyncio.create_task(self._listen())
        return answer.is_async

    async def ask(self, completions: Sequence[str], example: Example, seconds: float) -> Outcome:
        """The outcome of a group, within the limit and the grace."""
        number = next(self._numbers)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = len(completions), answer
        try:
            self._writer.write(packed(Asked(number, tuple(completions), example)))
            await asyncio.wait([answer], timeout=seconds)
            if not answer.done() and not self.lost:
                self._process.send_signal(LATE)
                await asyncio.wait([answer], timeout=GRACE_SECONDS)
            if not answer.done():
                self._lose("timeout", f"gave nothing within timeout_seconds ({seconds:g} s), and its process was ended")
            return await answer
        finally:
            del self._waiting[number]

    async def end(self) -> None:
        """End it, and wait until it is gone."""
        self._lose("died", "its process was ended")
        await self._how_it_ended()
        self._writer.close()

    async def _listen(self) -> None:
        try:
            while True:
                number, outcome = await receive(self._reader)
                if number in self._waiting:
                    self._waiting[number][1].set_result(outcome)
        except (EOFError, ConnectionError):
            self._lose("died", await self._how_it_ended())
        finally:
            self._writer.close()

    def _lose(self, fault: Fault, why: str) -> None:
        """Kill it; what it has not scored is lost with it."""
        if self.lost:
            return
        self.lost = True
        if self._process.returncode is None:
            self._process.kill()
        for completions, answer in self._waiting.values():
            if not answer.done():
                answer.set_result(Outcome.failed(fault, completions, why))

    async def _how_it_ended(self) -> str:
        try:
            async with asyncio.timeout(END_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            return "its process closed its socket, and goes on"
        return f"its process ended by {signal.Signals(-status).name if status < 0 else f'exit status {status}'}"


async def _started() -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "rewards.worker", str(theirs.fileno()), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it finds a plug-in where this process does
        )
    return _Worker(process, *await asyncio.open_connection(sock=ours))
