"""A run that is killed goes on from its last checkpoint as if nothing had happened, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.runs import load
from tests.integration.commands import CHECKOUT, Command, command
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, SAME, START_SECONDS, metrics_lines, missing_groups, write_config

pytestmark = pytest.mark.timeout(900)  # a busy machine starts an engine in minutes

STEPS, EVERY_STEPS = 6, 3
PROMPTS = 4
GONE_SECONDS = 15.0
AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""Ray's own, which report the death of their node for up to a minute before they end."""
AGENT_SECONDS = 75.0
CLOCK = Path(__file__).with_name("moved_clock")
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Run:
    """A run that came to its end."""

    status: int
    output: str
    lines: list[dict[str, Any]]
    rollouts: pd.DataFrame
    summary: dict[str, Any]


@dataclass(frozen=True)
class Killed:
    """What was there when a run's driver was killed."""

    path: Path
    left: set[str]
    agents_left: Callable[[], set[str]]
    """What is left when Ray's agents have had their time."""
    lines: list[dict[str, Any]]
    resumed: Run
    """What came of it."""


def configured(folder: Path, name: str, model: Path, questions: Questions, **checkpoint: int) -> Path:
    """A configuration of a synchronous run, which computes the same whenever it is started."""
    return write_config(
        folder / f"{name}.yaml",
        model,
        questions.train,
        run={"max_steps": STEPS},
        rollout={"engines": 1, "threads": 1},
        algorithm={"max_staleness": 0, "prompts_per_step": PROMPTS},
        checkpoint={"every_steps": EVERY_STEPS, **checkpoint},
    )


def ended(started: Command, path: Path) -> Run:
    """The run when its command has ended."""
    status = started.wait(RUN_SECONDS)
    assert status == 0, started.output
    summary = json.loads((path / "summary.json").read_text())
    return Run(status, started.output, metrics_lines(path), load(path).rollouts, summary)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Run:
    """Six steps on end, from the first of which on somebody keeps setting the clock of every process."""
    folder = tmp_path_factory.mktemp("whole")
    config, path = configured(folder, "whole", model, questions), folder / "runs" / "whole"
    clock = folder / "the clock moves"
    env = os.environ | {"PYTHONPATH": f"{CLOCK}:{CHECKOUT}", "AURICLE_TEST_CLOCK": str(clock)}
    with command("cluster.launch", "--config", config.name, cwd=folder, env=env) as started:
        started.wait_for(lambda: metrics_lines(path), "a step", START_SECONDS)
        clock.touch()
        return ended(started, path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Killed]:
    """The same six steps by a driver that is killed after the checkpoint of the third, and by its resume."""
    folder = tmp_path_factory.mktemp("killed")
    config, path = configured(folder, "killed", model, questions), folder / "runs" / "killed"
    with command("cluster.launch", "--config", config.name, cwd=folder) as started:
        there = path / "checkpoints" / f"step_{EVERY_STEPS}"
        started.wait_for(there.exists, f"the checkpoint of step {EVERY_STEPS}", START_SECONDS)
        os.kill(started.process.pid, signal.SIGKILL)
        started.process.wait(10)
        killed_at = time.monotonic()
        left = left_after(started, GONE_SECONDS, AGENTS)
        lines = metrics_lines(path)
        keep = configured(folder, "killed", model, questions, keep=5)
        with command("cluster.launch", "--config", keep.name, "--resume", cwd=folder) as resumed:
            run = ended(resumed, path)
            yield Killed(
                path, left, lambda: left_after(started, killed_at + AGENT_SECONDS - time.monotonic()), lines, run
            )


def left_after(started: Command, seconds: float, beside: Collection[str] = ()) -> set[str]:
    """What is left of a command after at most `seconds`, `beside` what is expected."""
    deadline = time.monotonic() + seconds
    while (left := set(started.left().values()).difference(beside)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def plain(values: list[Any]) -> str:
    """A column whose arrays hold arrays, to be compared."""
    return json.dumps(values, default=lambda array: array.tolist())


def test_of_the_processes_of_a_killed_run_rays_agents_alone_are_left(killed: Killed) -> None:
    assert killed.left == set()


def test_a_resume_says_where_it_goes_on_and_what_was_changed(killed: Killed) -> None:
    assert EVERY_STEPS <= killed.lines[-1]["step"] < STEPS
    assert re.search(rf"resuming \S+ from step {EVERY_STEPS}\b", killed.resumed.output)
    assert "checkpoint.keep: 2 -> 5" in killed.resumed.output


def test_every_step_stands_once_and_in_order_and_every_group_is_trained_once(killed: Killed) -> None:
    assert [line["step"] for line in killed.resumed.lines] == list(range(1, STEPS + 1))
    assert [line["trained"] for line in killed.resumed.lines] == [PROMPTS * step for step in range(1, STEPS + 1)]
    assert missing_groups(killed.path) == []


def test_the_summary_tells_of_the_time_before_the_kill_too(killed: Killed) -> None:
    assert killed.resumed.summary["train_seconds"] > sum(line["step_seconds"] for line in killed.resumed.lines)


def test_three_steps_a_kill_and_three_more_are_the_same_six_as_without(killed: Killed, whole: Run) -> None:
    for line, uninterrupted in zip(killed.resumed.lines, whole.lines, strict=True):
        expected = {key: uninterrupted[key] for key in SAME}
        assert {key: line[key] for key in SAME} == pytest.approx(expected, rel=1e-5, abs=1e-9), line["step"]


def test_after_a_kill_the_same_tokens_are_sampled_and_rewarded_as_without(killed: Killed, whole: Run) -> None:
    assert len(whole.rollouts) == STEPS * PROMPTS
    told, expected = (run.rollouts.sort_values(["step", "group_id"]).to_dict("list") for run in (killed.resumed, whole))
    for name in ("step", "group_id", "example_id", "token_ids", "rewards", "finish_reasons", "versions"):
        assert plain(told[name]) == plain(expected[name]), name


def test_pythons_time_of_day_may_leap_by_days_in_every_process_while_a_run_goes_on(whole: Run) -> None:
    times = [line["time"] for line in whole.lines]
    assert max(times) - min(times) > DAY_SECONDS  # the clock was moved
    for line in whole.lines:
        assert all(0 <= seconds < RUN_SECONDS for seconds in (line["step_seconds"], *line["seconds"].values()))
    assert 0 < whole.summary["train_seconds"] < RUN_SECONDS
    assert "is lost" not in whole.output


def test_in_the_end_no_process_of_a_killed_run_is_left(killed: Killed) -> None:
    assert killed.agents_left() == set()
