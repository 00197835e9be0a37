"""Time in a simulation: what happens when, who waits for whom, and what the time was spent on. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from math import inf

Action = Callable[[], object]


class Clock:
    """Events in their order. Those of one moment happen in the order in which they were set.

    Moments are in seconds of work. Where more threads work than there are cores, all of them are slowed alike: the wall
    clock then goes as many times as fast.

    Args:
        cores: that all share; None where nobody waits for a core.

    >>> clock = Clock(cores=1)
    >>> clock.threads = 2
    >>> clock.after(3.0, lambda: None); clock.step(); clock.now, clock.wall
    (3.0, 6.0)
    """

    def __init__(self, cores: float | None) -> None:
        self.now = 0.0
        self.wall = 0.0
        self.threads = 0
        """That work now."""
        self._cores = cores or inf
        self._events: list[tuple[float, int, Action]] = []
        self._set = 0

    def after(self, seconds: float, action: Action) -> None:
        """Have something happen in so many seconds of work."""
        self.at(self.now + seconds, action)

    def at(self, moment: float, action: Action) -> None:
        """Have something happen at that moment."""
        self._set += 1
        heapq.heappush(self._events, (moment, self._set, action))

    def step(self) -> None:
        """Go on to the next event, and have it happen."""
        if not self._events:
            raise AssertionError("the simulation waits for something that nobody does")
        moment, _, action = heapq.heappop(self._events)
        self.wall += (moment - self.now) * max(self.threads / self._cores, 1.0)
        self.now = moment
        action()


class Line:
    """Servers that take what comes in its order, each for so many seconds."""

    def __init__(self, servers: int, seconds: float) -> None:
        self._free = [0.0] * servers
        self._seconds = seconds

    def over(self, now: float) -> float:
        """When something that comes now is done."""
        done = max(now, self._free[0]) + self._seconds
        heapq.heapreplace(self._free, done)
        return done


class Server:
    """Takes one thing at a time, in the order in which they come; a thread that works while there is anything."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._line = Line(1, seconds)
        self._here = 0

    def do(self, then: Action) -> None:
        """Take something; what is to happen when it is done."""
        self._clock.threads += not self._here
        self._here += 1
        self._clock.at(self._line.over(self._clock.now), partial(self._done, then))

    def _done(self, then: Action) -> None:
        self._here -= 1
        self._clock.threads -= not self._here
        then()


class Spent:
    """What the time of somebody went into, who is idle at first."""

    def __init__(self, states: Iterable[str]) -> None:
        self.seconds = dict.fromkeys(states, 0.0)
        """By state, up to the last note."""
        self._state = "idle"
        self._since = 0.0

    def note(self, wall: float, state: str) -> None:
        """From now on the state is this."""
        self.seconds[self._state] += wall - self._since
        self._state, self._since = state, wall
