"""The simulation beside the control loop itself, which runs on a clock that jumps to whatever comes next.

Controller, admission, engine choice, delivery and ledger are a run's own. Engines and learner are stand-ins that take
the simulation's seconds, so that what differs is what the simulation makes of the control loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from actors.report import EngineReport
from bench.control import LAYOUT, Remote, Simulated
from cluster import saving
from cluster.controller import Controller
from cluster.forecast.simulated_engine import SimulatedEngine, SimulatedGroup
from cluster.forecast.simulation import Setting, simulate
from cluster.forecast.timings import Timings
from cluster.metrics import Metrics
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.rollout_pool import RolloutPool
from cluster.run_directory import RunDirectory
from cluster.transports import Buckets
from configs.schema import Config
from data.types import Clip, ClipSource, Example, GroupSummary, Prompt
from learner.packing import plan_micro_batches
from learner.result import UpdateResult

STEPS, PROMPTS = 8, 6
TIMINGS = Timings(
    name="uneven",
    step_seconds=0.011,
    sequence_seconds=0.0017,
    request_seconds=0.013,
    prompt_seconds=0.029,
    load_seconds=0.037,
    token_seconds=0.00071,
    update_seconds=0.019,
    publish_seconds=0.023,
    prompt_tokens=31,
    groups=((2, 3, 3), (2, 9, 4), (5, 5, 1), (17, 3, 6), (4, 4, 4)),
)
"""Odd numbers, so that nothing comes at one moment by chance."""


class JumpingClock(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time: its clock goes on to the next moment that anything is due."""

    def __init__(self) -> None:
        super().__init__()
        self._moment = 0.0
        select = self._selector.select

        def jump(timeout: float | None) -> Any:
            assert timeout is not None, "everything waits for something that nobody does"
            self._moment += max(timeout, 0.0)
            return select(0)

        self._selector.select = jump  # type: ignore[method-assign]

    def time(self) -> float:
        return self._moment


async def at_once(call: Callable[[], Any]) -> Any:
    """Files are written in no time."""
    return call()


class StandInEngine:
    """A rollout actor whose engine only takes time."""

    def __init__(self, setting: Setting) -> None:
        self.engine = SimulatedEngine(TIMINGS, setting.max_running, setting.on_update)
        self.generate, self.expect, self.receive = Remote(self._generate), Remote(self._expect), Remote(self._receive)
        self._waiting: dict[str, asyncio.Future[EngineReport]] = {}
        self._loaded: asyncio.Future[EngineReport] | None = None
        self._due: asyncio.TimerHandle | None = None

    def _generate(self, prompt: Prompt, lengths: Any, sampling: Any) -> tuple[SimulatedGroup, Awaitable[EngineReport]]:
        group = SimulatedGroup(prompt.group_id, lengths)
        self._waiting[group.name] = asyncio.get_running_loop().create_future()
        self.engine.ask(asyncio.get_running_loop().time(), group)
        self._look_again()
        return group, self._waiting[group.name]

    async def _expect(self, layout: Any) -> None: ...

    async def _receive(self, version: int, number: int, bucket: str) -> EngineReport:
        loop = asyncio.get_running_loop()
        self._loaded = loop.create_future()
        self.engine.offer(loop.time(), version)
        self._look_again()
        return await self._loaded

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        if self._due is not None:
            self._due.cancel()
        self._due = loop.call_at(self.engine.until, self._act) if self.engine.until < float("inf") else None

    def _act(self) -> None:
        before = self.engine.version
        finished = self.engine.act(self.engine.until)
        report = EngineReport(self.engine.version, 0.0, 0.0)
        for group in finished:
            self._waiting.pop(group.name).set_result(report)
        if self.engine.version != before:
            self._loaded.set_result(report)
        self._look_again()


class StandInReward:
    """Scores at once."""

    def __init__(self) -> None:
        self.score = Remote(self._score)

    def _score(self, group: SimulatedGroup) -> tuple[SimulatedGroup, Awaitable[GroupSummary]]:
        size = len(group.lengths)

        async def scored() -> GroupSummary:
            return GroupSummary(group.name, size, sum(group.lengths), 0, {"accuracy": 0.5}, 0.5, group.oldest)

        return group, scored()


class StandIns(Simulated):
    """Everything that a run asks; draws the lengths of groups as the simulation does."""

    def __init__(self, config: Config, setting: Setting) -> None:
        self.audio = self.learner = self.log = self.weights = self
        engines = {f"engine-{number}": StandInEngine(setting) for number in range(setting.engines)}
        self.rollout = RolloutPool(engines, [StandInReward()], config)
        self._draws, self._setting = Random(setting.seed), setting

    async def prompt(self, example: Example, group_id: str, epoch: int, issue: int, silent: bool) -> Prompt:
        lengths: Any = self._draws.choice(TIMINGS.groups)
        return Prompt(group_id, example, (1,), Clip(example.id, 1.0, 25, features=lengths), seed=0)

    async def step(self, groups: Sequence[SimulatedGroup], step: int) -> tuple[UpdateResult, list[str]]:
        tokens = [round(TIMINGS.prompt_tokens) + group.packed_tokens for group in groups]
        plan = plan_micro_batches(tokens, self._setting.ranks, self._setting.micro_batch_tokens)
        fullest = max(sum(tokens[index] for batch in rank for index in batch) for rank in plan)
        await asyncio.sleep(TIMINGS.learning_seconds(fullest, self._setting.ranks))
        return await super().step(groups, step)

    async def publish(self, update: Buckets) -> None:
        await asyncio.sleep(TIMINGS.publish_seconds)
        await super().publish(update)


async def controlled(directory: Path, setting: Setting) -> tuple[list[float], Counter[int]]:
    """When the control loop's steps are over, and the staleness of what they trained."""
    config = Config.model_validate(
        {
            "run": {"name": "control", "dir": str(directory), "max_steps": setting.steps},
            "model": {"path": "simulated"},
            "data": {"train": "simulated"},
            "rollout": {"max_running": setting.max_running, "verify_every": 0, "on_update": setting.on_update},
            "algorithm": {
                "group_size": TIMINGS.group_size,
                "prompts_per_step": setting.prompts_per_step,
                "max_staleness": setting.max_staleness,
            },
        }
    )
    examples = tuple(Example(str(n), ClipSource(f"{n}.wav"), "What is heard?", ("a", "b"), "a") for n in range(40))
    ended: list[float] = []
    staleness: Counter[int] = Counter()

    def note(line: Mapping[str, Any]) -> None:
        ended.append(asyncio.get_running_loop().time())
        staleness.update({int(age): count for age, count in line["staleness"].items()})

    with closing(RunDirectory.create(config, fresh=False)) as run:
        workers: Any = StandIns(config, setting)
        questions = Questions(train=examples)
        controller = Controller(config, run, workers, workers, questions, Reporter(), Metrics("control"), None)
        await controller.train(setting.steps, note)
    return ended, staleness


CASES = [
    (engines, staleness, on_update)
    for engines in (1, 3)
    for staleness, on_update in ((0, "drain"), (1, "drain"), (1, "recompute"), (2, "recompute"), (2, "keep_kv"))
]


@pytest.mark.parametrize(("engines", "staleness", "on_update"), CASES)
def test_the_control_loop_takes_its_steps_when_the_simulation_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: int, staleness: int, on_update: str
) -> None:
    setting = Setting(
        engines=engines,
        ranks=2,
        prompts_per_step=PROMPTS,
        max_staleness=staleness,
        max_running=7,
        steps=STEPS,
        on_update=on_update,
    )
    outcome = simulate(TIMINGS, setting)
    assert LAYOUT.buckets  # one bucket: new weights are here when they are published
    monkeypatch.setattr(saving, "in_thread", at_once)
    with asyncio.Runner(loop_factory=JumpingClock) as runner:
        ended, ages = runner.run(controlled(tmp_path, setting))
    assert ended == pytest.approx(outcome.ended)
    assert ages == outcome.staleness
