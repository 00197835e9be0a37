"""Runs that follow each other on the same two engines: with each bound of staleness, and with engines that are lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.controller import Controller
from cluster.placement import Node
from cluster.workers import Workers
from configs.schema import Config
from tests.integration.loops import Run, loop
from tests.integration.recordings import Questions

STEPS, PROMPTS, GROUP_SIZE = 8, 4, 4
ALLOWED = (0, 1, 4)
"""Bounds of staleness of the runs in which nothing happens."""
LOSING = 2
"""That of those in which engines are lost."""
VERIFY_EVERY = 3
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
TROUBLE_AT = 3
"""Steps that are taken before an engine is in trouble."""
UPDATE_SECONDS = 8.0
REPLACED_SECONDS = 120.0


@dataclass(frozen=True)
class Runs:
    """What came of them."""

    by_staleness: dict[int, Run] = field(default_factory=dict)
    by_loss: dict[str, Run] = field(default_factory=dict)
    """Runs in which the first engine got each of the signals, and a last one without: `whole`."""
    said: list[str] = field(default_factory=list)
    replaced: dict[str, bool] = field(default_factory=dict)
    """Whether two engines sampled again after each signal."""
    busy: dict[str, float] = field(default_factory=dict)
    """What each engine has worked, by the end, since it started."""


def take(folder: Path, model: Path, questions: Questions, nodes: list[Node]) -> Runs:
    """Take all of them, on actors that are started once."""
    runs = Runs()

    def configured(name: str, staleness: int) -> Config:
        return Config.model_validate(
            {
                "run": {"name": name, "dir": str(folder)},
                "model": {"path": str(model), "audio_tower": "frozen", "projector": "trained"},
                "data": {"train": str(questions.train)},
                "rollout": {
                    "engines": 2,
                    "max_completion_tokens": 24,
                    "max_model_tokens": 1024,
                    "verify_every": VERIFY_EVERY,
                    "update_timeout_seconds": UPDATE_SECONDS,
                },
                "rewards": [{"use": "tests.integration.plug_ins:vowels"}],
                "learner": {"learning_rate": 1e-3, "schedule": "constant", "threads": 1},
                "algorithm": {"group_size": GROUP_SIZE, "prompts_per_step": PROMPTS, "max_staleness": staleness},
            }
        )

    async def run_all() -> None:
        async with loop(configured("any", LOSING), nodes, runs.said.append) as started:
            for staleness in ALLOWED:
                config = configured(f"staleness-{staleness}", staleness)
                runs.by_staleness[staleness] = await started.run(config, STEPS)
            for name, number in SIGNALS.items():
                runs.by_loss[name] = await started.run(configured(name, LOSING), STEPS, signalled(number))
                runs.replaced[name] = await replaced(started.workers)
            runs.by_loss["whole"] = await started.run(configured("whole", LOSING), STEPS)
            reports = started.workers.rollout.reports
            runs.busy.update({name: report.busy_seconds for name, report in reports.items()})

    asyncio.run(run_all())
    return runs


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
