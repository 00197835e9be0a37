"""The actors of a run: created as planned, asked through one small surface each, ended together."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.audio import AudioActor
from actors.learner import LearnerActor
from actors.log import RolloutLogActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor, environment
from actors.weights.buckets import WeightUpdate
from cluster.placement import Role
from configs.schema import Config
from data.types import Clip, ClipSource, GroupSummary, Prompt, Sampling
from learner.result import UpdateResult

START_SECONDS = 600.0
"""Longest wait for an actor to be placed, load its model and compile."""


class WorkerError(RuntimeError):
    """An actor could not be placed, or did not answer in time."""


class AudioPool:
    """Decoding and encoding. A clip always goes to the same actor, which has it prepared once."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = actors

    async def prepare(self, source: ClipSource, silent: bool = False) -> Clip | str:
        """The prepared clip, or why it cannot be used."""
        home = zlib.crc32(str(source).encode()) % len(self.actors)
        prepared: Clip | str = await self.actors[home].prepare.remote(source, silent)
        return prepared


class RolloutPool:
    """The engines. A group goes to the engine with the least outstanding work."""

    def __init__(self, actors: Mapping[str, Any], rewards: Sequence[Any], config: Config) -> None:
        self.actors = actors
        self.rewards = rewards
        self.outstanding = dict.fromkeys(actors, 0)
        self.request_seconds = config.rollout.request_timeout_seconds
        self.update_seconds = config.rollout.update_timeout_seconds
        self._turn = 0

    async def sample(self, prompt: Prompt, sampling: Sampling) -> Any:
        """The completions of a prompt, as a `Group` value (evaluation, asking)."""
        return await self._on_engine(prompt, sampling, lambda reference: reference)

    async def sample_and_score(self, prompt: Prompt, sampling: Sampling) -> tuple[Any, GroupSummary]:
        """Sample a group and score it; gives a reference to the scored group, and its summary."""
        scored: list[Any] = []

        def score(group: Any) -> Any:
            self._turn += 1
            reward = self.rewards[self._turn % len(self.rewards)]
            reference, summary = reward.score.options(num_returns=2).remote(group)
            scored.append(reference)
            return summary

        summary: GroupSummary = await self._on_engine(prompt, sampling, score)
        return scored[0], summary

    async def update(self, update: WeightUpdate) -> None:
        """Load a version into every engine; each must report it in time."""
        calls = {name: actor.update_weights.remote(update) for name, actor in self.actors.items()}
        for name, call in calls.items():
            try:
                version = await asyncio.wait_for(call, self.update_seconds)
            except TimeoutError:
                raise WorkerError(
                    f"{name} did not take version {update.version} within rollout.update_timeout_seconds "
                    f"({self.update_seconds:g})"
                ) from None
            if version != update.version:
                raise WorkerError(f"{name} reports version {version} after the update to {update.version}")

    async def _on_engine(self, prompt: Prompt, sampling: Sampling, follow: Any) -> Any:
        name = min(self.outstanding, key=lambda engine: (self.outstanding[engine], engine))
        self.outstanding[name] += sampling.completions
        try:
            reference = self.actors[name].generate.remote(prompt, prompt.clip.features, sampling)
            return await asyncio.wait_for(follow(reference), self.request_seconds)
        except TimeoutError:
            raise WorkerError(
                f"{name} did not finish group {prompt.group_id} within rollout.request_timeout_seconds "
                f"({self.request_seconds:g})"
            ) from None
        finally:
            self.outstanding[name] -= sampling.completions


class LearnerGroup:
    """The learner ranks; every call goes to all of them."""

    def __init__(self, actors: Sequence[Any], config: Config) -> None:
        self.actors = actors
        self.step_seconds = config.learner.step_timeout_seconds

    async def join(self, model_path: str, reference_path: str, trainer_state: str | None) -> None:
        """Meet at rank 0 and load the model."""
        rendezvous = await self.actors[0].address.remote()
        await self._all("join", rendezvous, model_path, reference_path, trainer_state)

    async def step(self, groups: Sequence[Any], step: int) -> UpdateResult:
        """One optimizer step from references to scored groups."""
        results = await self._all("step", list(groups), step)
        return results[0]  # type: ignore[no-any-return]

    async def publish(self, version: int) -> WeightUpdate:
        """References to the trained weights."""
        return (await self._all("publish", version))[0]  # type: ignore[no-any-return]

    async def save(self, directory: str, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint's `hf/` and `trainer/`."""
        await self._all("save", directory, facts)

    async def start_profile(self) -> None:
        """Record what the ranks compute from now on."""
        await self._all("start_profile")

    async def stop_profile(self, path: str) -> None:
        """Write what rank 0 recorded."""
        await self._all("stop_profile", path)

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        calls = [getattr(actor, method).remote(*arguments) for actor in self.actors]
        try:
            return list(await asyncio.wait_for(asyncio.gather(*calls), self.step_seconds))
        except TimeoutError:
            raise WorkerError(
                f"the learner did not finish {method!r} within learner.step_timeout_seconds ({self.step_seconds:g})"
            ) from None


class Workers:
    """All actors of a run."""

    def __init__(
        self, config: Config, roles: Sequence[Role], model_path: str, version: int, stop: tuple[int, ...]
    ) -> None:
        self.config = config
        self._roles = {role.name: role for role in roles}
        self._groups: list[PlacementGroup] = []
        self._actors: list[Any] = []
        self.model_path = model_path
        encoders = self._create("audio", AudioActor, lambda _: (config, model_path, 1))
        rewards = self._create("reward", RewardActor, lambda _: (config.rewards, config.data.prompt))
        engines = {}
        if "engine" in self._roles:
            names = [f"engine-{number}" for number in range(self._roles["engine"].count)]
            created = self._create(
                "engine", RolloutActor, lambda n: (names[n], config, model_path, version, stop), environment(config)
            )
            engines = dict(zip(names, created, strict=True))
        self.audio = AudioPool(encoders)
        self.rollout = RolloutPool(engines, rewards, config)
        learners = self._create("learner", LearnerActor, lambda rank: (config, rank), _learner_environment(config))
        self.learner = LearnerGroup(learners, config)
        log = self._create("rollout log", RolloutLogActor, lambda _: ())
        self.log = log[0] if log else None

    async def ready(self, warm_up: tuple[int, ...]) -> list[dict[str, Any]]:
        """Wait until every engine has sampled once; gives where each lives."""
        waiting = [actor.ready.remote(warm_up) for actor in self.rollout.actors.values()]
        waiting += [actor.ready.remote() for actor in self.rollout.rewards]
        try:
            answers = await asyncio.wait_for(asyncio.gather(*waiting), START_SECONDS)
        except TimeoutError:
            raise WorkerError(f"the engines were not ready within {START_SECONDS:g} s") from None
        return [answer for answer in answers if isinstance(answer, dict)]

    def stop(self) -> None:
        """End every actor and give back what was reserved."""
        for actor in self._actors:
            ray.kill(actor)
        for group in self._groups:
            remove_placement_group(group)

    def _create(self, name: str, kind: Any, arguments: Any, variables: dict[str, str] | None = None) -> list[Any]:
        role = self._roles.get(name)
        if role is None:
            return []
        bundle = {"CPU": role.cpus} | ({"GPU": role.gpus} if role.gpus else {})
        group = placement_group([bundle] * role.count, strategy=role.strategy)
        self._groups.append(group)
        if not group.wait(self.config.cluster.wait_seconds):
            raise WorkerError(
                f"{role.count} x {name} ({role.cpus:g} CPU, {role.gpus:g} GPU each) could not be placed within "
                f"cluster.wait_seconds ({self.config.cluster.wait_seconds:g}): another run may hold the cluster"
            )
        created = [
            kind.options(
                num_cpus=role.cpus,
                num_gpus=role.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
                runtime_env={"env_vars": variables} if variables else None,
                **({"max_concurrency": 10_000} if name == "engine" else {}),
            ).remote(*arguments(number))
            for number in range(role.count)
        ]
        self._actors.extend(created)
        return created


def _learner_environment(config: Config) -> dict[str, str]:
    variables = {"TOKENIZERS_PARALLELISM": "false"}
    if config.learner.threads:
        variables["OMP_NUM_THREADS"] = str(config.learner.threads)
    return variables
