"""One reward function in a process of its own (`rewards.worker`), so that it has a limit whatever it does.

    limit passed ---> told to stop ---> the outcome is `timeout`
                          +-- GRACE_SECONDS ---> the process is ended, and another starts with the next group

What a function crashes is its own process; the groups that it was to score then are dropped as `reward_died`. Groups
that were scored beside one that had to be ended are asked again, once, in the new process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from data.types import Example
from rewards.messages import LATE, Asked, Loaded, Refused, Stalled, packed, receive
from rewards.registry import RewardError, Source
from rewards.terms import Term
from rewards.values import Fault, Outcome

GRACE_SECONDS = 2.0
"""How long a function that was told to stop may take for it."""

GRACE_PARTS = 4
"""Times that an event loop is asked in that time what holds it up."""

END_SECONDS = 5.0
"""How long a process that was killed may take to be gone."""

LAST_WORDS_SECONDS = 0.5
"""How long what a process has said before its end may take to be read."""

MOST_RESTARTS = 5
"""A function that could not be loaded again so often in a row ends the run."""

RESTART_SECONDS = 1.0
"""Pause after the first restart that failed; it doubles with each in a row."""


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
        self._source: Source | None = None
        """Of the function when it was first loaded."""
        self._note = ""
        """For the next outcome."""
        self._given_up = ""
        """Why it is not started any more, where it only observes; a run goes on without that."""
        self._failed_restarts = 0
        """In a row."""
        self._places: asyncio.Semaphore | None = None
        """Groups that the function may be given, known with the first of them."""

    async def start(self) -> None:
        """Load the function, unless a process has it.

        Raises:
            RewardError: it cannot be used, or was not there in time.
        """
        await self._there()

    async def score(self, completions: Sequence[str], example: Example) -> Outcome:
        """What the function makes of a group's completions, as soon as it has a place for them.

        Raises:
            RewardError: as `start`; later where it has a weight, and could not be started again so often in a row.
        """
        first = await self._there()
        if isinstance(first, str):
            return Outcome.failed("died", len(completions), first)
        if self._places is None:
            self._places = asyncio.Semaphore(self.term.groups_at_once(len(completions)) if first.is_async else 1)
        async with self._places:
            for _ in range(2):
                worker = await self._there()  # what had the place before may have taken the process with it
                if isinstance(worker, str):
                    return Outcome.failed("died", len(completions), worker)
                started = time.perf_counter()
                outcome = await worker.ask(completions, example, self.term.timeout_seconds)
                if outcome is not None:
                    note, self._note = self._note, ""
                    return dataclasses.replace(outcome, seconds=time.perf_counter() - started, note=note)
        why = "its process was ended twice, each time for another group, which was out of time"
        return Outcome.failed("died", len(completions), why)

    async def end(self) -> None:
        """End the process."""
        if self._worker is not None:
            await self._worker.end()

    async def _there(self) -> _Worker | str:
        """The process that has the function; why there is none, where it could not be started again."""
        async with self._starting:
            if self._worker is not None and not self._worker.lost:
                return self._worker
            if self._given_up:
                return self._given_up
            if self._failed_restarts:
                await asyncio.sleep(RESTART_SECONDS * 2 ** (self._failed_restarts - 1))
            try:
                self._worker, source = await self._loaded()
            except (RewardError, OSError) as error:
                if self._source is None:
                    raise
                self._failed_restarts += 1
                why = f"could not be started again ({error}{self._changed(Source.at(self._source.path))})"
                if self._failed_restarts < MOST_RESTARTS:
                    return f"its process ended, and {why}"
                if self.term.weight:
                    times = f"{MOST_RESTARTS} times in a row"
                    raise RewardError(f"rewards: {self.term.use!r}, {times}: {why}") from error
                self._given_up = f"it is given up: {why}"
                return self._given_up
            self._failed_restarts = 0
            if self._source is None:
                self._source = source
            elif changed := self._changed(source):
                self._note = f"reward {self.term.name} was started again{changed}"
            return self._worker

    async def _loaded(self) -> tuple[_Worker, Source]:
        worker = await _started()
        try:
            async with asyncio.timeout(self._start_seconds):
                return worker, await worker.load(self.term)
        except TimeoutError as error:
            limit = f"{self._start_seconds:g} s"
            raise RewardError(f"rewards: {self.term.use!r} has not been loaded within {limit}") from error
        finally:
            if not worker.loaded:
                await worker.end()

    def _changed(self, now: Source) -> str:
        """What to add where the function's file is not what it was when it was first loaded."""
        return "" if now == self._source else f"; {now.path} is another than when the run began"


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting:
    """A group that a process has."""

    completions: int
    seconds: float
    """Its limit."""
    until: float
    """When that passes."""
    answer: asyncio.Future[Outcome | None]


class _Worker:
    """One process, from its start until it is lost."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.loaded = False
        self.lost = False
        self.is_async = False
        """Whether the function is."""
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def load(self, term: Term) -> Source:
        """Have it load the function."""
        self._writer.write(packed(term))
        try:
            answer: Loaded | Refused = await receive(self._reader)
        except (EOFError, ConnectionError) as error:
            raise RewardError(f"rewards: {term.use!r}: {await self._how_it_ended()} while it was loaded") from error
        if isinstance(answer, Refused):
            raise RewardError(answer.why)
        self.loaded, self.is_async = True, answer.is_async
        listening = asyncio.create_task(self._listen())
        self._tasks = [listening, asyncio.create_task(self._watch(listening))]
        return answer.source

    async def ask(self, completions: Sequence[str], example: Example, seconds: float) -> Outcome | None:
        """The outcome of a group, within the limit and the grace; None where another group ended the process."""
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[Outcome | None] = loop.create_future()
        self._waiting[number] = _Waiting(len(completions), seconds, loop.time() + seconds, answer)
        try:
            self._writer.write(packed(Asked(number, tuple(completions), example)))
            await asyncio.wait([answer], timeout=seconds)
            parts = GRACE_PARTS if self.is_async else 1
            for _ in range(parts):
                if not answer.done() and not self.lost:
                    with contextlib.suppress(ProcessLookupError):  # it has ended, which `_watch` tells
                        self._process.send_signal(LATE)
                    await asyncio.wait([answer], timeout=GRACE_SECONDS / parts)
            if not answer.done():
                why = f"gave nothing within timeout_seconds ({seconds:g} s), and its process was ended"
                self._lose("timeout", why, number)
            return await answer
        finally:
            del self._waiting[number]

    async def end(self) -> None:
        """End it, and wait until it is gone."""
        self._lose("died", "its process was ended")
        await self._how_it_ended()
        self._writer.close()

    async def _listen(self) -> None:
        """Take answers until there are none any more."""
        try:
            while True:
                match await receive(self._reader):
                    case Stalled(number):
                        self._stalled(number)
                    case number, outcome:
                        waiting = self._waiting.get(number)
                        if waiting is not None and not waiting.answer.done():
                            waiting.answer.set_result(outcome)
        except (EOFError, ConnectionError):
            self._lose("died", await self._how_it_ended())
        finally:
            self._writer.close()

    async def _watch(self, listening: asyncio.Task[None]) -> None:
        """Notice its end where the socket does not tell it: a process that it started may hold that open."""
        await self._process.wait()
        await asyncio.wait([listening], timeout=LAST_WORDS_SECONDS)
        self._lose("died", await self._how_it_ended())

    def _stalled(self, number: int) -> None:
        """A group holds up the others: end it if its limit has passed."""
        waiting = self._waiting.get(number)
        if waiting is not None and waiting.until <= asyncio.get_running_loop().time():
            limit = f"timeout_seconds ({waiting.seconds:g} s)"
            why = f"blocked its event loop beyond {limit}, and its process was ended; await what takes time, or write"
            self._lose("timeout", f"{why} a plain `def`", number)

    def _lose(self, fault: Fault, why: str, culprit: int | None = None) -> None:
        """Kill it, with all that it started.

        Args:
            fault: of the culprit, or without one of all groups that it has.
            why: what is told of them.
            culprit: number of the group that it is ended for; the others are to be asked again.
        """
        if self.lost:
            return
        self.lost = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for number, waiting in self._waiting.items():
            if not waiting.answer.done():
                blamed = culprit is None or number == culprit
                waiting.answer.set_result(Outcome.failed(fault, waiting.completions, why) if blamed else None)

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
            start_new_session=True,  # a group of its own, which is ended as one
        )
    return _Worker(process, *await asyncio.open_connection(sock=ours))
