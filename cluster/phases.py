"""Where the time of a step goes, and `--profile`: the same as a trace that Perfetto opens."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROFILED_STEPS = 3
"""Steps that a trace holds, after a first one that is left out."""


@dataclass(slots=True)
class StepClock:
    """Splits the wall time of a step into phases that add up to it, as the learner sees them.

    While the step waits for its groups, it is in `encode` until the last of them is prepared and in `sample` until the
    last is sampled, less the `score` that followed; where sampling ran ahead there is little of these. Then come the
    learner's own phases, `sync` is the weights' way to the engines as far as the learner waits for it, and `wait` is
    what is left: actor calls on their way, and whatever else held the step up. Times are of `time.perf_counter`.
    """

    started: float = field(default_factory=time.perf_counter)
    encoded: float = 0.0
    """When the last prompt of the step was prepared."""
    scored: float = 0.0
    """When the last group of the step was sampled and scored."""
    score_seconds: float = 0.0
    """What scoring that one took."""
    stepped: float = 0.0
    """When the learner had stepped."""
    ended_at: float = 0.0
    """Time of day at the end."""

    def synced(self, learner_seconds: Mapping[str, float]) -> dict[str, float]:
        """The learner may go on, the step is over: seconds by phase."""
        now, self.ended_at = time.perf_counter(), time.time()
        encode = max(self.encoded - self.started, 0.0)
        sample_and_score = max(self.scored - self.started, 0.0) - encode
        score = min(self.score_seconds, sample_and_score)
        seconds = {
            "encode": encode,
            "sample": sample_and_score - score,
            "score": score,
            **learner_seconds,
            "sync": now - self.stepped,
        }
        return seconds | {"wait": now - self.started - sum(seconds.values())}


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
