"""Actors that are killed or frozen at work: most are replaced, and the loss of the others ends the run in a line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.runs import load
from tests.integration.commands import Command, command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, missing_groups, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BEAT_TIMEOUT_SECONDS = 20.0
"""Of an actor that is frozen; a busy machine answers within it."""
FOUND_SECONDS = 150.0
"""Until one that is lost is told of, and steps are taken with another in its place."""
REPLACED = {
    "RolloutActor": "engine-",
    "RewardActor": "reward actor 0",
    "RolloutLogActor": "rollout log 0",
    "AudioActor": "audio actor 0",
}
"""How the loss of each actor is told of."""
ROUNDS = [
    [("RolloutActor", signal.SIGSTOP), ("RewardActor", signal.SIGKILL), ("RolloutLogActor", signal.SIGKILL)],
    [("RewardActor", signal.SIGSTOP), ("AudioActor", signal.SIGKILL)],
]
"""Those of one round are lost at once."""
LOSSES = [loss for at_once in ROUNDS for loss in at_once]


@dataclass(frozen=True)
class Run:
    """A run that lost actors of every kind, and was then ended by the loss of its learner."""

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


def lose(
    started: Command, run: Path, losses: Sequence[tuple[str, signal.Signals]]
) -> dict[tuple[str, signal.Signals], str]:
    """Kill or freeze actors, and wait for two steps after all are told of; gives what is told of each."""
    before = len(started.lines)
    for actor, number in losses:
        os.kill(process(started, actor), number)

    def told(actor: str) -> list[str]:
        lines = (line for line in started.lines[before:] if line.startswith(REPLACED[actor]))
        return [line for line in lines if "is lost, and another" in line]

    started.wait_for(lambda: all(told(actor) for actor, _ in losses), f"what tells of {losses}", FOUND_SECONDS)
    steps = len(metrics_lines(run)) + 2
    started.wait_for(lambda: len(metrics_lines(run)) >= steps, f"two steps after {losses}", FOUND_SECONDS)
    return {loss: told(loss[0])[0] for loss in losses}


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
        told = {loss: line for at_once in ROUNDS for loss, line in lose(started, path, at_once).items()}
        lines = metrics_lines(path)
        os.kill(process(started, "LearnerActor"), signal.SIGSTOP)
        status, left = started.wait(FOUND_SECONDS), started.left()
        yield Run(path, told, lines, status, started.output, left)


@pytest.mark.parametrize(("actor", "number"), LOSSES)
def test_an_actor_that_holds_nothing_is_replaced_and_the_run_goes_on(
    run: Run, actor: str, number: signal.Signals
) -> None:
    why = f"no answer for {BEAT_TIMEOUT_SECONDS:g} s" if number is signal.SIGSTOP else "has ended"
    assert why in run.told[actor, number]
    told = [line for line in run.output.splitlines() if "is lost, and another" in line]
    assert sum(line.startswith(REPLACED[actor]) for line in told) == sum(actor == lost for lost, _ in LOSSES)


def test_no_group_is_lost_or_trained_twice(run: Run) -> None:
    assert missing_groups(run.path) == []
    rollouts = load(run.path).rollouts
    steps = sorted(set(rollouts["step"]))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= len(run.lines)


def test_the_loss_of_the_learner_ends_the_run_in_a_line_and_leaves_nothing(run: Run) -> None:
    assert run.status == 2
    [line] = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: learner rank 0 is lost (no answer for 20 s: ")
    assert line.endswith("a run goes on from its last checkpoint with --resume")
    assert not [line for line in run.left.values() if line.startswith("ray::") and "Agent" not in line]
