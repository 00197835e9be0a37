"""A control loop with stand-ins that answer at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.weights.buckets import Layout
from cluster.asking import Unusable
from cluster.controller import Controller
from cluster.metrics import OFF_POLICY, Metrics
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.rollout_pool import EngineLost
from cluster.run_directory import RunDirectory
from cluster.supervised import SupervisedLoop
from cluster.training_loop import TrainingLoop
from cluster.transports import Buckets
from cluster.waiting import WorkerError
from configs.schema import Config
from data.checksums import Checksums, checksums
from data.types import Clip, ClipSource, Completion, Example, Group, GroupSummary, Lesson, Prompt
from learner.result import LessonResult, UpdateResult

STEPS = 2
EXAMPLES = tuple(Example(str(n), ClipSource(f"{n}.wav"), "What is heard?", ("a", "b"), "a") for n in range(4))


class Actors:
    """Every pool of a run in one; notes what it was asked."""

    def __init__(self) -> None:
        self.audio = self.rollout = self.learner = self.log = self.weights = self.encoder = self
        self.actors: dict[str, Any] = {}
        self.asked: list[str] = []
        self.difference = {"engine-0": 1e-5, "engine-1": 2e-5}
        """How far each engine is from the learner, when they are compared."""
        self.replaced: list[tuple[str, str]] = []
        self.version = 0
        self.places = 100
        self.sampling = 0
        self.busy_seconds = 0.0
        self.lost = 0
        self.reports = {"engine-0": None}
        self.scored = 2
        self.unusable = ""
        """Why questions cannot be asked."""
        self.unusable_ids = {example.id for example in EXAMPLES}
        self.issues: list[tuple[str, int]] = []
        self.silences: list[tuple[str, bool]] = []
        """Groups that were asked for, and whether about silence."""
        self.not_finite = 0
        """How many steps are still to have a gradient that is none."""
        self.alike = 0
        """How many groups are still to have the same reward for all completions."""
        self.fails_to_publish = False
        self.taught: list[list[str]] = []
        """Ids of the questions of each supervised step."""
        self.losses = 0
        """How many groups are still to be lost with their engine."""
        self.deadly = ""
        """Id of a question that kills every engine."""
        self.files: Checksums = {}
        """What the last checkpoint holds."""
        self.may_write = asyncio.Event()
        """Set where a checkpoint that was begun is written."""
        self.may_write.set()
        self.training = asyncio.Event()
        self.sampled_while_training: list[str] = []

    async def prompt(
        self, example: Example, group_id: str, epoch: int, issue: int = 0, silent: bool = False
    ) -> Prompt | Unusable:
        self.issues.append((group_id, issue))
        self.silences.append((group_id, silent))
        if self.unusable and example.id in self.unusable_ids:
            return Unusable(self.unusable, "no such clip")
        return Prompt(group_id, example, (1,), Clip("c", 1.0, 25), seed=0)

    def prefetch(self, source: ClipSource) -> None:
        self.asked.append("prefetch")

    async def sample(self, prompt: Prompt, sampling: Any) -> Group:
        self.asked.append(f"sample {prompt.group_id}")
        text = "<answer>a</answer>"
        return Group(prompt, (Completion((1,), text, (0.0,), (0,), "stop"),) * sampling.completions)

    async def sample_and_score(self, prompt: Prompt, sampling: Any) -> tuple[str, GroupSummary]:
        if self.losses or prompt.example.id == self.deadly:
            self.losses -= self.losses > 0
            raise EngineLost("engine-0 has died")
        if self.training.is_set():
            self.sampled_while_training.append(prompt.group_id)
        spread = 0.0 if self.alike else 1.0
        self.alike -= self.alike > 0
        scored = GroupSummary(prompt.group_id, self.scored, 2, 0, {}, 1.0, self.version, spread)
        if self.scored == sampling.completions:
            return "group", scored
        lost = {"reward_raised": sampling.completions - self.scored}
        problem = "reward mine:score, example 0: it raised KeyError"
        return "group", dataclasses.replace(scored, dropped=lost, problems=(problem,))

    async def step(self, groups: Any, step: int) -> tuple[UpdateResult, list[str]]:
        self.asked.append("step")
        self.training.set()
        await asyncio.sleep(0.01)
        self.training.clear()
        off_policy = dict.fromkeys(OFF_POLICY, 0.0)
        loss, made = self._learned()
        result = UpdateResult(((0.0, 0.0),), loss, 0, 0, 0, 0, made, not made, 0, 0, 0, 2, 2, {}, off_policy)
        return result, ["log-probs"]

    def _learned(self) -> tuple[float, int]:
        """The loss of a step, and how many updates it makes."""
        skipped, self.not_finite = self.not_finite > 0, max(self.not_finite - 1, 0)
        return (math.nan, 0) if skipped else (0.5, 1)

    async def teach(self, lessons: Sequence[Lesson], step: int) -> LessonResult:
        self.asked.append("teach")
        self.taught.append([lesson.prompt.example.id for lesson in lessons])
        loss, made = self._learned()
        tokens = sum(len(lesson.answer) for lesson in lessons)
        return LessonResult(loss, 1.0, 1e-3, made, tokens, 10, 10, {"forward": 0.0})

    def answer(self, example: Example) -> tuple[int, ...]:
        return (2, 3)

    async def sample_from_each(self, prompt: Prompt, sampling: Any) -> dict[str, str]:
        self.asked.append(f"check {prompt.group_id}")
        return {name: f"{name}'s group" for name in self.difference}

    async def differences(self, groups: list[str]) -> list[float]:
        return [self.difference[group.removesuffix("'s group")] for group in groups]

    def replace(self, name: str, why: str) -> None:
        self.replaced.append((name, why))

    async def begin(self, version: int, engines: Any) -> Buckets:
        return Buckets(version, Layout(()))

    async def publish(self, update: Buckets) -> None:
        self.asked.append("publish")
        if self.fails_to_publish:
            raise WorkerError("the learner has died")

    async def update(self, update: Buckets) -> None:
        self.version = update.version

    async def save(self, directory: str, facts: dict[str, Any]) -> None:
        for name, content in (("hf/config.json", {}), ("trainer/state.json", {"updates": facts["step"], **facts})):
            (Path(directory) / name).parent.mkdir()
            (Path(directory) / name).write_text(json.dumps(content))
        self.files = checksums(Path(directory))

    async def saved(self) -> Checksums:
        await self.may_write.wait()
        return self.files

    async def write(self, *_: Any) -> None:
        self.asked.append("write")

    async def written(self) -> None:
        self.asked.append("written")


class Launch:
    """A control loop on a run directory that a test may look at."""

    def __init__(
        self,
        folder: Path,
        test: tuple[Example, ...] = (),
        validation: tuple[Example, ...] = (),
        staleness: int = 0,
        train: Sequence[Example] = EXAMPLES,
    ) -> None:
        self.actors = Actors()
        self.said: list[str] = []
        self.train, self.test, self.validation = tuple(train), test, validation
        self.config = Config.model_validate(
            {
                "run": {"name": "r", "dir": str(folder), "max_steps": STEPS},
                "model": {"path": "m"},
                "data": {"train": "t.jsonl"},
                "algorithm": {"group_size": 2, "prompts_per_step": 1, "max_staleness": staleness},
                "evaluate": {"samples": 1},
            }
        )
        self.run_directory = RunDirectory.create(self.config, fresh=False)

    def change(self, **sections: dict[str, Any]) -> None:
        """Change keys of the configuration."""
        changed = {name: getattr(self.config, name).model_copy(update=keys) for name, keys in sections.items()}
        self.config = self.config.model_copy(update=changed)

    def controller(self, state: dict[str, Any] | None = None) -> TrainingLoop:
        reporter = Reporter()
        reporter.say = self.said.append  # type: ignore[method-assign]
        questions = Questions(train=self.train, validation=self.validation, test=self.test)
        actors: Any = self.actors
        actors.config = self.config
        kind = SupervisedLoop if self.config.algorithm.name == "sft" else Controller
        return kind(self.config, self.run_directory, actors, actors, questions, reporter, Metrics("r"), state)

    def run(self, state: dict[str, Any] | None = None) -> dict[str, Any]:
        return asyncio.run(self.controller(state).run())

    def state(self) -> dict[str, Any]:
        _, state = self.run_directory.checkpoints.newest()
        assert state is not None
        return state
