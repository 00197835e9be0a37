"""`python -m bench.control`: how many groups a second the control loop can move, with 1,000 engines.

The control loop is a run's own, with its admission, ledger, data order, engine choice and metrics,
and the learner plans its micro-batches. The engines, rewards and the learner's arithmetic are simulated: they live in
this process and answer after a random time, so that nothing but the control loop is measured. It runs on one core.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from actors.report import EngineReport
from actors.weights.buckets import Layout, Slot
from bench.command import finish, parser
from cluster.asking import Unusable
from cluster.controller import Controller
from cluster.metrics import OFF_POLICY, Metrics
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.rollout_pool import RolloutPool
from cluster.run_directory import RunDirectory
from cluster.transports import Buckets
from configs.schema import Config
from data.checksums import Checksums, checksums
from data.types import Clip, ClipSource, Example, GroupSummary, Prompt
from learner.packing import plan_micro_batches
from learner.result import UpdateResult

ENGINES, GROUPS = 1000, 200_000
PROMPTS_PER_STEP, STALENESS, GROUP_SIZE, RANKS = 1000, 4, 8, 8
SAMPLE_SECONDS = (0.05, 0.5)
LAYOUT = Layout(((Slot("weight", "float32", (1,), 0),),))
"""One bucket: a large model has dozens, but not several updates a second."""
LEAST_GROUPS_PER_SECOND = 2000.0
FLAT = 1.1
"""Memory after all groups over memory after the first fifth, at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the loop is slow or its memory grows."""
    arguments = parser("control", __doc__)
    arguments.add_argument("--engines", type=int, default=ENGINES, help=f"simulated engines ({ENGINES})")
    arguments.add_argument("--groups", type=int, default=GROUPS, help=f"groups to train ({GROUPS})")
    options = arguments.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    reporter = Reporter()
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        figures = asyncio.run(measure(Path(temporary), options.engines, options.groups, reporter))
    reporter.say(
        f"{figures['groups']} groups by {figures['engines']} simulated engines: "
        f"{figures['groups_per_second']:.0f} groups a second on one core ({figures['cpu_seconds']:.1f} s of it); "
        f"memory {figures['memory_ratio']:.3f} times what it was after a fifth of them"
    )
    fast, flat = figures["groups_per_second"] >= LEAST_GROUPS_PER_SECOND, figures["memory_ratio"] <= FLAT
    promised = {
        f"at least {LEAST_GROUPS_PER_SECOND:g} groups a second": fast,
        f"at most {FLAT:g} times the memory": flat,
    }
    return finish(figures, promised, options, reporter)


async def measure(directory: Path, engines: int, groups: int, reporter: Reporter) -> dict[str, Any]:
    """All figures, as one flat object."""
    steps = max(groups // PROMPTS_PER_STEP, 5)
    config = Config.model_validate(
        {
            "run": {"name": "control", "dir": str(directory), "max_steps": steps},
            "model": {"path": "simulated"},
            "data": {"train": "simulated"},
            "rewards": [{"use": "accuracy"}],
            "rollout": {"max_running": 8 * GROUP_SIZE, "verify_every": 0},  # simulated engines have no weights
            "algorithm": {
                "group_size": GROUP_SIZE,
                "prompts_per_step": PROMPTS_PER_STEP,
                "max_staleness": STALENESS,
            },
        }
    )
    examples = tuple(
        Example(f"{number}", ClipSource(f"{number}.wav"), "What is heard?", ("a", "b"), "a") for number in range(10_000)
    )
    memory: list[int] = []

    def note(line: dict[str, Any]) -> None:
        if line["step"] % max(steps // 5, 1) == 0:
            memory.append(psutil.Process().memory_info().rss)

    with closing(RunDirectory.create(config, fresh=False)) as run:
        workers: Any = Simulated(config, engines)
        controller = Controller(
            config, run, workers, workers, Questions(train=examples), reporter, Metrics("control"), None
        )
        begun, used = time.perf_counter(), time.process_time()
        await controller.train(steps, note)
        elapsed, used = time.perf_counter() - begun, time.process_time() - used
    trained = controller.ledger.trained
    return {
        "engines": engines,
        "groups": trained,
        "prompts_per_step": PROMPTS_PER_STEP,
        "max_staleness": STALENESS,
        "seconds": elapsed,
        "cpu_seconds": used,
        "groups_per_second": trained / elapsed,
        "memory_bytes": memory[-1],
        "memory_ratio": memory[-1] / memory[0],
    }


class Simulated:
    """Everything that a run asks, in this process: no Ray, no model, and answers after a while."""

    def __init__(self, config: Config, engines: int) -> None:
        self.audio = self.learner = self.log = self.weights = self
        names = [f"engine-{number}" for number in range(engines)]
        self.rollout = RolloutPool({name: SimulatedEngine() for name in names}, [SimulatedReward()], config)

    async def prompt(self, example: Example, group_id: str, epoch: int, issue: int, silent: bool) -> Prompt | Unusable:
        return Prompt(group_id, example, (1,) * 80, Clip(example.id, 1.0, 25), seed=0)

    def prefetch(self, source: ClipSource) -> None: ...

    async def step(self, groups: Sequence[Any], step: int) -> tuple[UpdateResult, list[str]]:
        plan_micro_batches([200 + number % 100 for number in range(len(groups))], RANKS, 2048)
        advantages = ((0.0,) * GROUP_SIZE,) * len(groups)
        off_policy = dict.fromkeys(OFF_POLICY, 0.0)
        zeros = (0.0,) * 5
        result = UpdateResult(advantages, *zeros, 1, False, None, None, 0, 1, 1, {"forward": 0.0}, off_policy)
        return result, ["a reference"]

    async def begin(self, version: int, engines: Mapping[str, Any]) -> Buckets:
        return Buckets(version, LAYOUT)

    async def publish(self, update: Buckets) -> None:
        update.add("a reference")

    async def save(self, directory: str, facts: dict[str, Any]) -> None:
        for name, content in (("hf/config.json", {}), ("trainer/state.json", {"updates": facts["step"], **facts})):
            (Path(directory) / name).parent.mkdir()
            (Path(directory) / name).write_text(json.dumps(content))
        self._files = checksums(Path(directory))

    async def saved(self) -> Checksums:
        return self._files

    async def write(self, *_: Any) -> None: ...

    async def written(self) -> None: ...


class Remote:
    """Calls a coroutine as Ray calls a remote method."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def options(self, **_: Any) -> Remote:
        """Placement and the like do not count here."""
        return self

    def remote(self, *arguments: Any) -> Any:
        """What the method gives, at once or to await."""
        return self._function(*arguments)


class SimulatedEngine:
    """Samples for a random time."""

    def __init__(self) -> None:
        self.version = 0
        self.busy_seconds = 0.0
        self.generate = Remote(self._generate)
        self.expect = Remote(self._expect)
        self.receive = Remote(self._receive)

    def _generate(self, prompt: Prompt, *_: Any) -> tuple[tuple[str, int], Awaitable[EngineReport]]:
        return (prompt.group_id, self.version), self._report(random.uniform(*SAMPLE_SECONDS))

    async def _expect(self, layout: Layout) -> None: ...

    async def _receive(self, version: int, number: int, bucket: str) -> EngineReport:
        self.version = version
        return await self._report(SAMPLE_SECONDS[0])

    async def _report(self, seconds: float) -> EngineReport:
        await asyncio.sleep(seconds)
        self.busy_seconds += seconds
        return EngineReport(self.version, self.busy_seconds, 0.5)


class SimulatedReward:
    """Scores at once."""

    def __init__(self) -> None:
        self.score = Remote(self._score)

    def _score(self, group: tuple[str, int]) -> tuple[str, Awaitable[GroupSummary]]:
        group_id, version = group
        summary = GroupSummary(group_id, GROUP_SIZE, 9 * GROUP_SIZE, 0, {"accuracy": 0.5}, 0.5, version)

        async def scored() -> GroupSummary:
            return summary

        return group_id, scored()


if __name__ == "__main__":
    sys.exit(main())
