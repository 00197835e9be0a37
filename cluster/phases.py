"""Where the time of a step goes, and `--profile`: the same as a trace that Perfetto opens."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROFILED_STEPS = 3
"""Steps that a trace holds, after a first one that is left out."""


class StepClock:
    """Splits the wall time of a synchronous step into phases that add up to it.

    `encode` lasts until the last prompt is prepared, `sample` until the last group is sampled, less the `score` that
    followed it; then come the learner's own phases, `sync` is the weights' way into every engine, and `wait` is what
    is left: actor calls on their way, and whatever else held the step up.
    """

    def __init__(self) -> None:
        self.started = self._encoded = self._scored = self._stepped = time.perf_counter()
        self._score_seconds = 0.0
        self.ended_at = 0.0
        """Time of day at which the engines had the weights."""

    def encoded(self) -> None:
        """A prompt is prepared."""
        self._encoded = time.perf_counter()

    def scored(self, score_seconds: float) -> None:
        """A group is sampled and scored; scoring took so long."""
        self._scored, self._score_seconds = time.perf_counter(), score_seconds

    def stepped(self) -> None:
        """The learner has stepped."""
        self._stepped = time.perf_counter()

    def synced(self, learner_seconds: Mapping[str, float]) -> dict[str, float]:
        """The engines have the weights, the step is over: seconds by phase."""
        elapsed, self.ended_at = time.perf_counter() - self.started, time.time()
        seconds = {
            "encode": self._encoded - self.started,
            "sample": self._scored - self._encoded - self._score_seconds,
            "score": self._score_seconds,
            **learner_seconds,
            "sync": time.perf_counter() - self._stepped,
        }
        return seconds | {"wait": elapsed - sum(seconds.values())}


class Profile:
    """A few steps as Chrome's trace events: the run's phases and groups, merged with what the learner's profiler saw.

    Begins after the first step of a launch, which compiles and warms up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = 0
        """Steps seen since the launch."""
        self._events: list[dict[str, Any]] = []

    @property
    def recording(self) -> bool:
        """Whether the step that goes on belongs to the trace."""
        return 1 <= self.steps <= PROFILED_STEPS

    @property
    def learner_path(self) -> Path:
        """Where rank 0 writes its own part."""
        return self.path.with_name("learner.trace")

    def group(self, group_id: str, seconds: float) -> None:
        """A group that is sampled and scored by now; groups overlap."""
        now = time.time() * 1e6
        for phase, moment in (("b", now - seconds * 1e6), ("e", now)):
            event = {"ph": phase, "cat": "group", "id": group_id, "name": group_id}
            self._events.append(event | {"pid": "run", "tid": "groups", "ts": moment})

    def step(self, step: int, seconds: Mapping[str, float], ended_at: float) -> None:
        """A step that ended at that time of day, phase after phase."""
        begin = (ended_at - sum(seconds.values())) * 1e6
        self._span("step", f"step {step}", begin, sum(seconds.values()))
        for name, length in seconds.items():
            self._span("phase", name, begin, length)
            begin += length * 1e6

    def write(self) -> Path:
        """Write the trace; the learner's part is taken in and removed."""
        learner = json.loads(self.learner_path.read_text())
        base = float(learner.get("baseTimeNanoseconds", 0)) / 1e3
        theirs = [event | {"ts": float(event["ts"]) + base} for event in learner["traceEvents"] if "ts" in event]
        named = [event for event in learner["traceEvents"] if "ts" not in event]
        events = self._events + theirs
        first = min(event["ts"] for event in events)
        moved = [event | {"ts": event["ts"] - first} for event in events]
        self.path.write_text(json.dumps({"traceEvents": named + moved, "displayTimeUnit": "ms"}))
        self.learner_path.unlink()
        return self.path

    def _span(self, track: str, name: str, begin: float, seconds: float) -> None:
        event = {"ph": "X", "pid": "run", "tid": track, "name": name, "ts": begin, "dur": seconds * 1e6}
        self._events.append(event)
