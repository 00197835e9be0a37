"""One engine of a simulation: vLLM behind its queue, as far as time goes. Pure: the caller has the clock.

It computes the prompts of what waits, decodes what runs until a completion ends or something comes, and loads weights
between the two. All running sequences are decoded together, a token each in a step; the steps of a stretch in which
their number stays the same are taken at once, so that an update or a prompt may come within a step. New weights find
running sequences as `rollout.on_update` says; `drain` holds what is asked for meanwhile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Literal

from cluster.forecast.timings import Timings

State = Literal["idle", "prompts", "decoding", "loading"]
STATES: tuple[State, ...] = ("idle", "prompts", "decoding", "loading")


@dataclass(slots=True, eq=False)
class SimulatedGroup:
    """A group on its way."""

    name: str
    lengths: tuple[int, ...]
    """Tokens of its completions."""
    started: int = 0
    """Completions that run or have run."""
    ended: int = 0
    oldest: int = -1
    """Version of its oldest token, once there is one."""

    @property
    def packed_tokens(self) -> int:
        """Positions that its completions take in a micro-batch."""
        return sum(self.lengths) - len(self.lengths)


class SimulatedEngine:
    """An engine that does one thing at a time; `until` is when that ends, and `act` has to be called then.

    Args:
        timings: what it takes.
        max_running: completions that it decodes at once.
        on_update: what new weights do to what runs: `drain`, `recompute` or `keep_kv`.

    >>> timings = Timings(name="", step_seconds=1, prompt_seconds=2, prompt_tokens=1, groups=((3,),))
    >>> engine = SimulatedEngine(timings, max_running=1, on_update="drain")
    >>> engine.ask(0.0, SimulatedGroup("a", (3,))); engine.state, engine.until
    ('prompts', 2.0)
    >>> engine.act(2.0), engine.state, engine.until  # the first token comes with the prompt
    ([], 'decoding', 4.0)
    """

    def __init__(self, timings: Timings, max_running: int, on_update: str) -> None:
        self.state: State = "idle"
        self.until = inf
        self.version = 0
        self._timings = timings
        self._max_running = max_running
        self._on_update = on_update
        self._pending: int | None = None
        """A version that is here and not loaded."""
        self._waiting: deque[SimulatedGroup] = deque()
        self._held: deque[SimulatedGroup] = deque()
        self._prompts: list[tuple[SimulatedGroup, tuple[int, ...]]] = []
        """Completions that run when the prompts are computed."""
        self._running: list[tuple[float, int, float, SimulatedGroup]] = []
        """Heap of the clock's reading at their end, order, reading at their start, group."""
        self._clock = 0.0
        """Decoding steps taken."""
        self._since = 0.0
        self._started = 0
        self._again_seconds = 0.0
        """Of keys and values that an update has made old."""

    def ask(self, now: float, group: SimulatedGroup) -> None:
        """Take a group."""
        if self._pending is not None and self._on_update == "drain":
            self._held.append(group)
            return
        if self._on_update == "keep_kv":
            group.oldest = self.version
        self._waiting.append(group)
        self._disturb(now)

    def offer(self, now: float, version: int) -> None:
        """New weights are here, all of them."""
        self._pending = version
        self._disturb(now)

    def act(self, now: float) -> list[SimulatedGroup]:
        """What was done is done; gives the groups that are finished by that."""
        finished: list[SimulatedGroup] = []
        if self.state == "loading":
            self._loaded()
        elif self.state == "prompts":
            for group, lengths in self._prompts:
                self._run(group, lengths, finished)
            self._prompts = []
        elif self.state == "decoding":
            self._clock = self._running[0][0]
            while self._running and self._running[0][0] <= self._clock:
                self._end(heappop(self._running)[3], finished)
        self._next(now)
        return finished

    def _disturb(self, now: float) -> None:
        """Something has come: an engine that decodes looks at it, an idle one when others may have come too."""
        if self.state == "decoding":
            self._clock += (now - self._since) / self._timings.decoding_seconds(len(self._running))
            self._next(now)
        elif self.state == "idle" and self._pending is not None:
            self._next(now)
        elif self.state == "idle" and self.until == inf:
            if self._timings.gather_seconds:
                self.until = now + self._timings.gather_seconds
            else:
                self._next(now)

    def _next(self, now: float) -> None:
        drained = not (self._running or self._waiting)
        if self._pending is not None and (drained or self._on_update != "drain"):
            self.state, self.until = "loading", now + self._timings.load_seconds
            return
        seconds = self._take_prompts()
        if self._prompts or seconds:
            self.state, self.until = "prompts", now + seconds
        elif self._running:
            left = max(self._running[0][0] - self._clock, 0.0)
            self.state, self._since = "decoding", now
            self.until = now + left * self._timings.decoding_seconds(len(self._running))
        else:
            self.state, self.until = "idle", inf

    def _take_prompts(self) -> float:
        """Give places to what waits; the seconds until it runs."""
        seconds, self._again_seconds = self._again_seconds, 0.0
        free = self._max_running - len(self._running)
        while self._waiting and free:
            group = self._waiting[0]
            if not group.started:
                seconds += self._timings.request_seconds + self._timings.prompt_seconds
            lengths = group.lengths[group.started : group.started + free]
            group.started += len(lengths)
            free -= len(lengths)
            self._prompts.append((group, lengths))
            if group.started == len(group.lengths):
                self._waiting.popleft()
        return seconds

    def _run(self, group: SimulatedGroup, lengths: tuple[int, ...], finished: list[SimulatedGroup]) -> None:
        """The first token of these completions is sampled."""
        if group.oldest < 0:
            group.oldest = self.version
        for length in lengths:
            if length == 1:
                self._end(group, finished)
            else:
                self._started += 1
                heappush(self._running, (self._clock + length - 1, self._started, self._clock, group))

    def _end(self, group: SimulatedGroup, finished: list[SimulatedGroup]) -> None:
        group.ended += 1
        if group.ended == len(group.lengths):
            finished.append(group)

    def _loaded(self) -> None:
        assert self._pending is not None
        self.version, self._pending = self._pending, None
        self._waiting.extend(self._held)
        self._held.clear()
        if self._on_update == "recompute":
            prompts = len({id(group) for *_, group in self._running})
            sampled = sum(self._clock - start for _, _, start, _ in self._running)
            tokens = prompts * self._timings.prompt_tokens + sampled
            self._again_seconds = tokens * self._timings.prompt_seconds / self._timings.prompt_tokens
