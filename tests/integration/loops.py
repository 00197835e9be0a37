"""The control loop on real actors, in this process: a test may look at both while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cluster.asking import Asker
from cluster.controller import Controller
from cluster.metrics import Metrics
from cluster.placement import Node, plan
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.run_directory import RunDirectory
from cluster.runs import load
from cluster.session import workers
from cluster.training_loop import state_at
from cluster.workers import Workers
from configs.schema import Config
from data.formats import load_examples
from tests.integration.runs import metrics_lines


@dataclass(frozen=True)
class Run:
    """What a run left: its metrics and its rollout log."""

    lines: list[dict[str, Any]]
    trained: pd.DataFrame
    dropped: pd.DataFrame
    first_version: int

    @property
    def ages(self) -> list[int]:
        """How many versions each trained token lagged behind the weights that it trained."""
        rows = self.trained.itertuples()
        return [row.step - 1 - version for row in rows for versions in row.versions for version in versions]


class Loop:
    """Actors on which one run follows the other, each from the version at which the last one ended."""

    def __init__(self, started: Workers, asker: Asker) -> None:
        self.workers = started
        self.version = 0
        self._asker = asker

    async def run(
        self, config: Config, steps: int, meanwhile: Callable[[Controller], Awaitable[None]] | None = None
    ) -> Run:
        """Take so many steps; `meanwhile` goes on beside them."""
        until = self.version + steps
        settings = config.run.model_copy(update={"max_steps": until})
        config = config.model_copy(update={"run": settings})
        directory = RunDirectory.create(config, fresh=False)
        state = state_at(self.version, config.algorithm.prompts_per_step)
        questions = Questions(train=load_examples(config.data.train).examples)
        metrics = Metrics(config.run.name)
        controller = Controller(config, directory, self.workers, self._asker, questions, Reporter(), metrics, state)
        beside = asyncio.ensure_future(meanwhile(controller)) if meanwhile else None
        await controller.run()
        if beside is not None:
            await beside
        assert controller.admission.outstanding == 0
        rollouts = load(directory.path).rollouts
        trained, dropped = rollouts[rollouts.drop_reason.isna()], rollouts[rollouts.drop_reason.notna()]
        first, self.version = self.version, until
        return Run(metrics_lines(directory.path), trained, dropped, first)


@asynccontextmanager
async def loop(config: Config, nodes: list[Node], say: Callable[[str], None] = print) -> AsyncIterator[Loop]:
    """Start the actors of a run, and end them."""
    path = config.model.path
    async with workers(config, nodes, plan(config, nodes), path, say=say) as (started, asker, _):
        await started.learner.join(started.model_path, started.model_path, None)
        yield Loop(started, asker)
