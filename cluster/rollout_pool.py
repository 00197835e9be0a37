"""The engines of a run, as one: groups go to the engine with the least outstanding work, weights to all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actors.report import EngineReport
from actors.weights.buckets import WeightUpdate
from cluster.waiting import ANSWER_KEY, WorkerError, bounded
from configs.schema import Config
from data.types import GroupSummary, Prompt, Sampling

KV_CACHE_FULL = 0.9
"""Use of the key-value cache from which on an engine gets no further group: it would preempt what it samples."""


class RolloutPool:
    """The engines, and the reward actors that score what they sample.

    Args:
        actors: rollout actors by name.
        rewards: reward actors, taken in turn.
        config: the run.
        version: policy version of the engines' weights.
    """

    def __init__(self, actors: Mapping[str, Any], rewards: Sequence[Any], config: Config, version: int = 0) -> None:
        self.actors = actors
        self.rewards = rewards
        self.outstanding = dict.fromkeys(actors, 0)
        """Completions that each engine was asked for and has not given, by its name."""
        self.reports = {name: EngineReport(version, 0.0, 0.0) for name in actors}
        self._versions = Counter({version: len(actors)})
        self._full: set[str] = set()
        self.group_size = config.algorithm.group_size
        self.groups_at_once = -(-config.rollout.max_running // config.algorithm.group_size)
        self.request_seconds = config.rollout.request_timeout_seconds
        self.update_seconds = config.rollout.update_timeout_seconds
        self.answer_seconds = config.cluster.actor_timeout_seconds
        self._turn = 0

    @property
    def version(self) -> int:
        """The oldest policy version that an engine samples from."""
        return min(self._versions)

    @property
    def busy_seconds(self) -> float:
        """What the engines have spent on sampling and loading weights, in all, by their last reports."""
        return sum(report.busy_seconds for report in self.reports.values())

    @property
    def places(self) -> int:
        """How many groups the engines take at a time: what they sample at once, and one each that waits its turn."""
        taken = sum(self.outstanding[name] // self.group_size for name in self._full)
        return taken + (len(self.reports) - len(self._full)) * (self.groups_at_once + 1)

    async def sample(self, prompt: Prompt, sampling: Sampling) -> Any:
        """The completions of a prompt, as a `Group` value (evaluation, asking)."""
        group = await self._sampled(prompt, sampling)
        return await bounded(group, ANSWER_KEY, self.answer_seconds, f"group {prompt.group_id} has not arrived")

    async def sample_and_score(self, prompt: Prompt, sampling: Sampling) -> tuple[Any, GroupSummary]:
        """Sample a group and score it; gives a reference to the scored group, and its summary."""
        group = await self._sampled(prompt, sampling)
        self._turn += 1
        reward = self.rewards[self._turn % len(self.rewards)]
        reference, summary = reward.score.options(num_returns=2).remote(group)
        what = f"the reward actor has not scored group {prompt.group_id}"
        mend = "a reward function of `rewards` may hang"
        return reference, await bounded(summary, ANSWER_KEY, self.answer_seconds, what, mend)

    async def update(self, update: WeightUpdate) -> None:
        """Load a version into every engine; each must report it in time."""
        await asyncio.gather(*(self._update(name, update) for name in self.actors))

    async def _update(self, name: str, update: WeightUpdate) -> None:
        call = self.actors[name].update_weights.remote(update)
        what = f"{name} has not taken version {update.version}"
        report = await bounded(call, "rollout.update_timeout_seconds", self.update_seconds, what)
        if report.version != update.version:
            raise WorkerError(f"{name} reports version {report.version} after the update to {update.version}")
        self._heard(name, report)

    def _heard(self, name: str, report: EngineReport) -> None:
        """Keep the newest report; answers may overtake each other."""
        before = self.reports[name]
        if report.busy_seconds < before.busy_seconds:
            return
        self.reports[name] = report
        self._versions += Counter({report.version: 1})
        self._versions -= Counter({before.version: 1})
        (self._full.add if report.kv_cache_use >= KV_CACHE_FULL else self._full.discard)(name)

    async def _sampled(self, prompt: Prompt, sampling: Sampling) -> Any:
        """A reference to the completions of a prompt, once they are there; the group itself stays with its engine."""
        name = min(self.outstanding, key=self.outstanding.__getitem__)  # of equals the first
        self.outstanding[name] += sampling.completions
        try:
            generate = self.actors[name].generate.options(num_returns=2)
            group, report = generate.remote(prompt, prompt.clip.features, sampling)
            what = f"{name} has not finished group {prompt.group_id}"
            limit = "rollout.request_timeout_seconds"
            self._heard(name, await bounded(report, limit, self.request_seconds, what))
            return group
        finally:
            self.outstanding[name] -= sampling.completions
