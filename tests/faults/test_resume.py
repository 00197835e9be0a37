"""A run that is killed goes on from its last checkpoint as if nothing had happened, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import Command, command
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, SAME, START_SECONDS, metrics_lines, write_config

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

EVERY_STEPS = 3
KILLED_AFTER = EVERY_STEPS + 2
"""Steps that are there when the run is killed: a checkpoint, and two steps that a resume has to take again."""
GONE_SECONDS = 15.0
AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""Ray's own, which report the death of their node for up to a minute before they end."""
AGENT_SECONDS = 75.0


@dataclass(frozen=True)
class Killed:
    """A run whose driver was killed, and its resume."""

    left: set[str]
    agents_left: set[str]
    before: list[dict[str, Any]]
    checkpoint: int
    status: int
    output: str
    after: list[dict[str, Any]]
    steps: int
    train_seconds: float


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("killed")
    run = folder / "runs" / "killed"
    config = write_config(
        folder / "killed.yaml",
        model,
        questions.train,
        run={"max_steps": 1000},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": EVERY_STEPS},
    )
    with command("cluster.launch", "--config", config.name, cwd=folder) as started:
        started.wait_for(lambda: len(metrics_lines(run)) >= KILLED_AFTER, f"step {KILLED_AFTER}", START_SECONDS)
        os.kill(started.process.pid, signal.SIGKILL)
        started.process.wait(10)
        killed_at = time.monotonic()
        left = left_after(started, GONE_SECONDS, AGENTS)
        before = metrics_lines(run)
        checkpoint = max(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))
        steps = before[-1]["step"] + 2
        resume = ("--config", config.name, "--resume", f"run.max_steps={steps}")
        with command("cluster.launch", *resume, cwd=folder) as resumed:
            status = resumed.wait(RUN_SECONDS)
            agents_left = left_after(started, max(killed_at + AGENT_SECONDS - time.monotonic(), 0.0))
            summary = run / "summary.json"
            train_seconds = json.loads(summary.read_text())["train_seconds"] if summary.exists() else 0.0
            yield Killed(
                left, agents_left, before, checkpoint, status, resumed.output, metrics_lines(run), steps, train_seconds
            )


def left_after(started: Command, seconds: float, beside: Collection[str] = ()) -> set[str]:
    """What is left of a command after at most `seconds`, `beside` what is expected."""
    deadline = time.monotonic() + seconds
    while (left := set(started.left().values()).difference(beside)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def test_no_process_of_a_killed_run_is_left(killed: Killed) -> None:
    assert killed.left == set()
    assert killed.agents_left == set()


def test_a_resume_says_where_it_goes_on_and_what_was_changed(killed: Killed) -> None:
    assert killed.status == 0, killed.output
    [step] = re.findall(r"resuming \S+ from step (\d+)", killed.output)
    assert int(step) == killed.checkpoint > 0
    assert f"run.max_steps: 1000 -> {killed.steps}" in killed.output


def test_every_step_stands_once_and_in_order_and_the_ledger_balances(killed: Killed) -> None:
    assert [line["step"] for line in killed.after] == list(range(1, killed.steps + 1))
    for line in killed.after:
        assert line["admitted"] == line["trained"] + line["dropped"] + line["in_flight"]
        assert line["trained"] == 4 * line["step"]


def test_the_summary_tells_of_the_time_before_the_kill_too(killed: Killed) -> None:
    assert killed.train_seconds > sum(line["step_seconds"] for line in killed.after)


def test_the_steps_after_the_checkpoint_are_taken_again_as_they_were(killed: Killed) -> None:
    lost = [line for line in killed.before if line["step"] > killed.checkpoint]
    assert lost
    for line in lost:
        again = killed.after[line["step"] - 1]
        assert again["time"] > line["time"]
        assert {key: again[key] for key in SAME} == pytest.approx({key: line[key] for key in SAME}, rel=1e-3, abs=1e-6)
