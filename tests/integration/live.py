"""Engines, learner and audio actors of one configuration, started as a run starts them and asked by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from actors.weights.buckets import Bucket, Layout
from actors.weights.incoming import Arrivals
from cluster.asking import Asker
from cluster.evaluation.evaluation import ask_all
from cluster.placement import Node, plan
from cluster.session import workers
from cluster.transports import Buckets
from cluster.workers import Workers
from configs.schema import Config
from data.types import ClipSource, Example, Group, Prompt, Sampling
from learner.result import UpdateResult
from tests.integration.recordings import Questions

SECONDS = 60.0


def live_config(model: Path, questions: Questions, /, **sections: dict[str, Any]) -> Config:
    """Clips alike in length and steps that move the policy far; `sections` change keys of each section."""
    config: dict[str, dict[str, Any]] = {
        "model": {"path": str(model)},
        "data": {"train": str(questions.train), "max_seconds": 1.0},
        "rollout": {"max_model_tokens": 1024, "max_completion_tokens": 16},
        "learner": {"learning_rate": 0.02, "schedule": "constant", "max_grad_norm": 1e9, "threads": 1},
        "algorithm": {"beta": 0.0, "group_size": 4, "prompts_per_step": 4},
    }
    return Config.model_validate({name: keys | sections.get(name, {}) for name, keys in config.items()})


def rising(group: Group) -> Group:
    """The group with rewards that rise from the first completion to the last."""
    return dataclasses.replace(group, total=tuple(float(number) for number in range(len(group.completions))))


def examples(questions: Questions) -> list[Example]:
    """One question about each of the first recordings."""
    return [
        Example(row["id"], ClipSource(str(questions.folder / row["audio"])), "What is heard?", ("a", "b"), "a")
        for row in questions.rows()[:4]
    ]


def arrived(version: int, layout: Layout, buckets: Sequence[Bucket]) -> Arrivals:
    """An update of which everything has come."""
    arrivals = Arrivals(version, layout, SECONDS)
    for number, bucket in enumerate(buckets):
        arrivals.add(number, bucket)
    return arrivals


class Live:
    """A session without a control loop: its parts are called one by one."""

    def __init__(self, config: Config, runner: asyncio.Runner, started: Workers, asker: Asker) -> None:
        self.config = config
        self.workers = started
        self.version = 0
        self._asker = asker
        self._runner = runner

    def prompts(self, examples: Sequence[Example], epoch: int = 0) -> list[Prompt]:
        """Prompts as a run makes them in that epoch."""
        return [self._run(self._asker.prompt(example, f"{epoch}-{example.id}", epoch)) for example in examples]

    def sample(self, prompts: Sequence[Prompt], completions: int = 4, max_tokens: int = 16) -> list[Group]:
        """The groups of all prompts, asked at once; their rewards rise from the first completion to the last."""
        sampling = Sampling(completions, self.config.rollout.temperature, max_tokens)

        async def ask() -> list[Group]:
            return await asyncio.gather(*(self.workers.rollout.sample(prompt, sampling) for prompt in prompts))

        return [rising(group) for group in self._run(ask())]

    def greedy(self, examples: Sequence[Example]) -> list[str | None]:
        """The most likely completion of each question, as an evaluation asks for it."""
        asked = ask_all(self._asker, self.workers.rollout, examples, samples=0)
        return [answer.greedy for answer in self._run(asked)]

    def train(self, groups: Sequence[Group]) -> UpdateResult:
        """One step of the learner from the groups; the engines keep what they have."""
        references = [ray.put(group) for group in groups]
        result, _ = self._run(self.workers.learner.step(references, self.version))
        self.version += 1
        return result

    def send_weights(self) -> None:
        """The learner's weights to every engine, as the version that counts the steps."""

        async def send() -> None:
            weights, rollout = self.workers.learner.weights, self.workers.rollout
            update = await weights.begin(self.version, rollout.actors)
            await asyncio.gather(rollout.update(update), weights.publish(update))

        self._run(send())

    def train_other_parameters(self, choose: Any) -> Any:
        """What a function of the learner gives that changes which parameters are trained."""
        self.workers.learner.weights._layout = None
        self.workers.rollout._expecting.clear()
        return self.in_learner(choose)

    def published(self) -> tuple[int, Layout, list[Bucket]]:
        """The learner's weights, not sent to any engine: version, what is in each bucket, buckets."""

        async def publish() -> Buckets:
            weights: Any = self.workers.learner.weights
            update: Buckets = await weights.begin(self.version, {})
            await weights.publish(update)
            return update

        update = self._run(publish())
        return update.version, update.layout, ray.get(update.references)

    def in_engine(self, function: Any) -> Any:
        """What a function of the vLLM engine gives, run on the engine's own thread in its actor."""

        def call(actor: Any) -> Any:
            return actor._engine.call(function).result(30)

        [engine] = self.workers.rollout.actors.values()
        return ray.get(engine.__ray_call__.remote(call))

    def in_rollout(self, function: Any) -> Any:
        """What a function of the rollout actor gives, run in its process."""
        [actor] = self.workers.rollout.actors.values()
        return ray.get(actor.__ray_call__.remote(function))

    def in_learner(self, function: Any) -> Any:
        """What a function of the learner gives, run on its first rank."""
        return ray.get(self.workers.learner.actors[0].__ray_call__.remote(lambda actor: function(actor._learner)))

    def sample_around_an_update(self, before: Sequence[Prompt], after: Sequence[Prompt]) -> list[list[Group]]:
        """Ask one list of prompts, send the weights before the engine starts on them, and ask the other list then."""
        sampling = Sampling(4, self.config.rollout.temperature, self.config.rollout.max_completion_tokens)

        def ask(actor: Any, published: tuple[int, Layout, list[Bucket]], *lists: Sequence[Prompt]) -> list[list[Group]]:
            engine, queued = actor._engine, threading.Event()
            engine.call(lambda _: queued.wait(SECONDS))
            asked = []
            for number, prompts in enumerate(lists):
                features = ray.get([prompt.clip.features for prompt in prompts])
                asked.append([engine.generate(*pair, sampling) for pair in zip(prompts, features, strict=True)])
                if number == 0:
                    engine.load(arrived(*published))
            queued.set()
            return [[future.result(SECONDS) for future in futures] for futures in asked]

        [actor] = self.workers.rollout.actors.values()
        sampled = ray.get(actor.__ray_call__.remote(ask, self.published(), before, after))
        return [[rising(group) for group in groups] for groups in sampled]

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)


@contextmanager
def live(config: Config, nodes: list[Node]) -> Iterator[Live]:
    """Start a learner, an engine and an audio actor on the model of the configuration, and end them."""
    roles = [role for role in plan(config, nodes) if role.name in ("learner", "engine", "audio")]
    with asyncio.Runner() as runner:
        session = workers(config, nodes, roles, config.model.path)
        started, asker, _ = runner.run(session.__aenter__())
        try:
            runner.run(started.learner.join(started.model_path, started.model_path, None))
            yield Live(config, runner, started, asker)
        finally:
            runner.run(session.__aexit__(None, None, None))
