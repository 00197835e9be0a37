"""Where the time of a step goes, and the trace of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cluster.phases import PROFILED_STEPS, Profile, StepClock


def test_the_phases_of_a_step_add_up_to_its_wall_time() -> None:
    before = time.perf_counter()
    clock = StepClock()
    time.sleep(0.01)
    clock.encoded()
    time.sleep(0.03)
    clock.scored(score_seconds=0.01)
    time.sleep(0.02)
    clock.stepped()
    time.sleep(0.01)
    seconds = clock.synced({"forward": 0.005, "backward": 0.01})
    elapsed = time.perf_counter() - before
    assert list(seconds) == ["encode", "sample", "score", "forward", "backward", "sync", "wait"]
    assert clock.ended_at == pytest.approx(time.time(), abs=5)
    assert sum(seconds.values()) == pytest.approx(elapsed, abs=0.005)
    assert seconds["encode"] >= 0.01
    assert seconds["sample"] >= 0.02
    assert seconds["score"] == 0.01
    assert seconds["sync"] >= 0.01
    assert seconds["wait"] >= 0.005


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
