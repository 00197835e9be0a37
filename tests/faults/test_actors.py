"""Actors that are killed or frozen at work: most are replaced, and the loss of the others ends the run in a line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.runs import load
from tests.integration.commands import Command, command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config

pytestmark = pytest.mark.timeout(900)

BEAT_TIMEOUT_SECONDS = 20.0
"""Of an actor that is frozen; a busy machine answers within it."""
FOUND_SECONDS = 150.0
"""Until one that is lost is told of, and steps are taken with another in its place."""
REPLACED = {"RolloutActor": "engine-", "RewardActor": "reward actor 0", "RolloutLogActor": "rollout log 0"}
"""How the loss of each actor is told of."""
LOSSES = [
    ("RolloutActor", signal.SIGSTOP),
    ("RewardActor", signal.SIGKILL),
    ("RewardActor", signal.SIGSTOP),
    ("RolloutLogActor", signal.SIGKILL),
]


@dataclass(frozen=True)
class Run:
    """A run that lost actors of every kind, one after the other, and was then ended by the loss of its learner."""

    path: Path
    told: dict[tuple[str, signal.Signals], str]
    """The line about each loss."""
    lines: list[dict[str, Any]]
    status: int
    output: str
    left: dict[int, str]


def process(started: Command, actor: str) -> int:
    """One of an actor's processes."""
    return next(pid for pid, line in started.left().items() if line.startswith(f"ray::{actor}"))


def lose(started: Command, run: Path, actor: str, number: signal.Signals) -> str:
    """Kill or freeze an actor, and wait for two steps after it is told of; gives what is told."""
    before = len(started.lines)
    os.kill(process(started, actor), number)

    def lines() -> list[str]:
        told = (line for line in started.lines[before:] if line.startswith(REPLACED[actor]))
        return [line for line in told if "is lost, and another" in line]

    started.wait_for(lines, f"what tells of {actor}, {number.name}", FOUND_SECONDS)
    steps = len(metrics_lines(run)) + 2
    started.wait_for(lambda: len(metrics_lines(run)) >= steps, f"two steps after {actor}, {number.name}", FOUND_SECONDS)
    return lines()[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("lost")
    path = folder / "runs" / "lost"
    config = write_config(
        folder / "lost.yaml",
        model,
        questions.train,
        run={"max_steps": 100_000},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": 2},
        cluster={"beat_timeout_seconds": BEAT_TIMEOUT_SECONDS},
    )
    with command("cluster.launch", "--config", config.name, cwd=folder) as started:
        started.wait_for(lambda: len(metrics_lines(path)) >= 2, "two steps", START_SECONDS)
        told = {(actor, number): lose(started, path, actor, number) for actor, number in LOSSES}
        lines = metrics_lines(path)
        os.kill(process(started, "LearnerActor"), signal.SIGSTOP)
        status, left = started.wait(FOUND_SECONDS), started.left()
        yield Run(path, told, lines, status, started.output, left)


@pytest.mark.parametrize(("actor", "number"), LOSSES)
def test_an_actor_that_holds_nothing_is_replaced_and_the_run_goes_on(
    run: Run, actor: str, number: signal.Signals
) -> None:
    assert run.told[actor, number].startswith(REPLACED[actor])
    if number is signal.SIGSTOP:
        assert f"no answer for {BEAT_TIMEOUT_SECONDS:g} s" in run.told[actor, number]


def test_no_group_is_lost_or_trained_twice(run: Run) -> None:
    for line in run.lines:
        assert line["admitted"] == line["trained"] + line["dropped"] + line["in_flight"]
    rollouts = load(run.path).rollouts
    trained = rollouts[rollouts["drop_reason"].isna()]
    assert not trained["group_id"].duplicated().any()
    steps = sorted(set(trained["step"]))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= len(run.lines)


def test_the_loss_of_the_learner_ends_the_run_in_a_line_and_leaves_nothing(run: Run) -> None:
    assert run.status == 2
    [line] = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: learner rank 0 is lost (no answer for 20 s: ")
    assert line.endswith("a run goes on from its last checkpoint with --resume")
    assert not [line for line in run.left.values() if line.startswith("ray::") and "Agent" not in line]
