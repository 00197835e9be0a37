"""Where the time of a step goes, and the trace of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cluster.phases import PROFILED_STEPS, Profile, StepClock


def test_the_phases_of_a_step_add_up_to_its_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock()
    begin = clock.started
    monkeypatch.setattr(time, "perf_counter", lambda: begin + 0.11)
    clock.encoded, clock.scored, clock.score_seconds = begin + 0.01, begin + 0.05, 0.01
    clock.stepped = begin + 0.1
    seconds = clock.synced({"forward": 0.02, "backward": 0.02})
    assert list(seconds) == ["encode", "sample", "score", "forward", "backward", "sync", "wait"]
    assert clock.ended_at == pytest.approx(time.time(), abs=5)
    assert sum(seconds.values()) == pytest.approx(0.11)
    assert seconds["encode"] == pytest.approx(0.01)
    assert seconds["sample"] == pytest.approx(0.03)
    assert seconds["score"] == pytest.approx(0.01)
    assert seconds["sync"] == pytest.approx(0.01)
    assert seconds["wait"] == pytest.approx(0.01)


def test_what_was_sampled_before_the_step_began_took_none_of_its_time() -> None:
    clock = StepClock()
    clock.encoded, clock.scored, clock.score_seconds = clock.started - 2.0, clock.started - 1.0, 0.5
    clock.stepped = clock.started
    seconds = clock.synced({})
    assert (seconds["encode"], seconds["sample"], seconds["score"]) == (0.0, 0.0, 0.0)


def test_a_trace_holds_the_runs_phases_beside_the_learners_operators_on_one_time_axis(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile.json")
    assert not profile.recording  # the first step compiles
    profile.steps = PROFILED_STEPS
    assert profile.recording
    profile.group("0-7", seconds=0.5)
    ended_at = time.time() - 30  # a validation came after it
    profile.step(4, {"sample": 0.6, "forward": 0.2}, ended_at)
    learner = {
        "baseTimeNanoseconds": 1_000_000_000,
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 1},
            {"ph": "X", "name": "aten::mm", "pid": 1, "tid": 1, "ts": ended_at * 1e6 - 1e6 - 100_000, "dur": 5.0},
        ],
    }
    profile.learner_path.write_text(json.dumps(learner))
    events = json.loads(profile.write().read_text())["traceEvents"]
    assert not profile.learner_path.exists()
    named = {event["name"]: event for event in events}
    assert {"step 4", "sample", "forward", "0-7", "aten::mm", "process_name"} <= named.keys()
    assert min(event["ts"] for event in events if "ts" in event) == 0
    forward = named["forward"]
    assert forward["ts"] == pytest.approx(named["sample"]["ts"] + 0.6e6, abs=1)
    assert forward["ts"] < named["aten::mm"]["ts"] < forward["ts"] + forward["dur"]
