"""An engine dies or hangs while a run goes on: another takes its place, and no group is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.controller import Controller
from cluster.placement import Node
from cluster.workers import Workers
from configs.schema import Config
from tests.integration.loops import Run, loop
from tests.integration.recordings import Questions

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

STEPS, PROMPTS, GROUP_SIZE = 8, 4, 4
TROUBLE_AT = 3
"""Steps that are taken before an engine is in trouble."""
UPDATE_SECONDS = 5.0
REPLACED_SECONDS = 120.0
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


@dataclass(frozen=True)
class Losses:
    """A run in which the first engine got each of the signals, and a last one without."""

    runs: dict[str, Run]
    said: list[str]
    replaced: dict[str, bool]
    """Whether two engines sampled again after each."""
    busy: dict[str, float]
    """What each engine has worked, by the end, since it started."""


def configured(folder: Path, model: Path, questions: Questions, name: str) -> Config:
    return Config.model_validate(
        {
            "run": {"name": name, "dir": str(folder)},
            "model": {"path": str(model), "audio_tower": "frozen", "projector": "frozen"},
            "data": {"train": str(questions.train)},
            "rollout": {
                "engines": 2,
                "max_completion_tokens": 24,
                "max_model_tokens": 1024,
                "update_timeout_seconds": UPDATE_SECONDS,
            },
            "rewards": [{"use": "tests.integration.plug_ins:vowels"}],
            "learner": {"learning_rate": 1e-3, "schedule": "constant", "threads": 1},
            "algorithm": {"beta": 0.0, "group_size": GROUP_SIZE, "prompts_per_step": PROMPTS, "max_staleness": 2},
        }
    )


def signalled(number: int) -> Callable[[Controller], Awaitable[None]]:
    """Sends a signal to the process of the first engine, while it samples."""

    async def trouble(controller: Controller) -> None:
        pool, first = controller.workers.rollout, controller.version
        pid = await pool.actors["engine-0"].__ray_call__.remote(lambda _: os.getpid())
        while controller.version < first + TROUBLE_AT or not pool.outstanding["engine-0"]:
            await asyncio.sleep(0.001)
        os.kill(pid, number)

    return trouble


async def replaced(workers: Workers) -> bool:
    """Whether two engines are there in time."""
    for _ in range(int(REPLACED_SECONDS / 0.1)):
        if len(workers.rollout.actors) == 2:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions, nodes: list[Node]) -> Losses:
    folder = tmp_path_factory.mktemp("engine-loss")
    said: list[str] = []
    runs: dict[str, Run] = {}
    again: dict[str, bool] = {}

    async def run_all() -> dict[str, float]:
        async with loop(configured(folder, model, questions, "any"), nodes, said.append) as started:
            for name, number in SIGNALS.items():
                runs[name] = await started.run(configured(folder, model, questions, name), STEPS, signalled(number))
                again[name] = await replaced(started.workers)
            runs["whole"] = await started.run(configured(folder, model, questions, "whole"), STEPS)
            return {name: report.busy_seconds for name, report in started.workers.rollout.reports.items()}

    return Losses(runs, said, again, asyncio.run(run_all()))


@pytest.mark.parametrize("name", SIGNALS)
def test_the_run_goes_on_and_every_group_is_trained_once(losses: Losses, name: str) -> None:
    run = losses.runs[name]
    assert [line["step"] - run.first_version for line in run.lines] == list(range(1, STEPS + 1))
    assert run.trained.group_id.is_unique
    assert len(run.trained) == STEPS * PROMPTS == run.lines[-1]["admitted"]
    assert run.dropped.empty
    assert max(run.ages) <= 2
    assert all(len(group) == GROUP_SIZE for group in run.trained.completions)


@pytest.mark.parametrize("name", SIGNALS)
def test_another_engine_takes_the_place_of_the_lost_one(losses: Losses, name: str) -> None:
    assert losses.replaced[name]
    assert losses.runs["whole"].lines[-1]["engines"] == 2
    assert losses.runs["whole"].lines[-1]["engines_lost"] == len(SIGNALS)
    assert min(losses.busy.values()) > 0


def test_the_new_engine_samples_from_the_newest_weights(losses: Losses) -> None:
    compared = [line["logprob_difference_max"] for run in losses.runs.values() for line in run.lines]
    assert max(difference for difference in compared if difference is not None) < 1e-4


def test_the_user_is_told_which_engine_was_lost_and_why(losses: Losses) -> None:
    told = [text for text in losses.said if "engine-0 is lost, and another takes its place" in text]
    assert len(told) == len(SIGNALS)
    assert "has not taken version" in told[1]
    assert "rollout.update_timeout_seconds (5 s)" in told[1]
