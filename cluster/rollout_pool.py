"""The engines of a run, as one: groups go to the engine with the least outstanding work, weights to all of them.

An engine that dies, or misses a deadline, is removed and another takes its place, with the newest weights, while the
others go on. What it was sampling is asked again, of another engine. Further engines may join at any time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from actors.report import EngineDied, EngineReport
from cluster.transports import Update
from cluster.waiting import ANSWER_KEY, GONE, WorkerError, bounded
from configs.schema import Config
from data.errors import last_line
from data.types import GroupSummary, Prompt, Sampling

KV_CACHE_FULL = 0.9
"""Use of the key-value cache from which on an engine gets no further group: it would preempt what it samples."""

MOST_TRIES = 3
"""How often an engine is started whose process ends before it is ready, and a question asked whose engine is lost."""


class EngineLost(WorkerError):
    """The engine that was to answer is gone."""


class RolloutPool:
    """The engines, and the reward actors that score what they sample.

    Args:
        actors: rollout actors by name.
        rewards: reward actors, taken in turn.
        config: the run.
        version: policy version of the weights that engines start with.
        start: gives an engine of that name, ready to sample, in place of one that was lost or as a further one;
            without it the loss of an engine is only told to who waits for it.
        say: tells the user of a lost engine.
        end: ends the process of one of that name that was lost, in case it only hangs.
        count: notes the name of one that was lost, and why.
    """

    def __init__(
        self,
        actors: Mapping[str, Any],
        rewards: Sequence[Any],
        config: Config,
        version: int = 0,
        start: Callable[[str], Awaitable[Any]] | None = None,
        say: Callable[[str], None] = lambda text: None,
        end: Callable[[str, Any], None] = lambda name, actor: ray.kill(actor),
        count: Callable[[str, str], None] = lambda name, why: None,
    ) -> None:
        self.actors: dict[str, Any] = {}
        self.rewards = rewards
        self.outstanding: dict[str, int] = {}
        """Completions that each engine was asked for and has not given, by its name."""
        self.reports: dict[str, EngineReport] = {}
        self.sampling = 0
        """Groups that engines were asked for and have not given."""
        self.on_place: Callable[[], object] = lambda: None
        """Called when an engine may have a place for another group."""
        self.lost = 0
        """Engines that were lost so far."""
        self.failed: dict[str, str] = {}
        """Engines that could not be started, and why."""
        self.group_size = config.algorithm.group_size
        self.groups_at_once = -(-config.rollout.max_running // config.algorithm.group_size)
        self.request_seconds = config.rollout.request_timeout_seconds
        self.update_seconds = config.rollout.update_timeout_seconds
        self.answer_seconds = config.cluster.actor_timeout_seconds
        self._first_version = version
        self._newest: Update | None = None
        self._versions: Counter[int] = Counter()
        self._full: set[str] = set()
        self._expecting: dict[str, Any] = {}
        """Actors that know the layout of the weights, by name."""
        self._busy_seconds_of_lost = 0.0
        self._start = start
        self._say = say
        self._end = end
        self._count = count
        self._starts: dict[str, asyncio.Task[None]] = {}
        """Engines that are being started, by name."""
        self._turn = 0
        for name, actor in actors.items():
            self._join(name, actor, version)

    @property
    def version(self) -> int:
        """The oldest policy version that an engine samples from."""
        return min(self._versions, default=self._newest.version if self._newest else self._first_version)

    @property
    def busy_seconds(self) -> float:
        """What the engines have spent on sampling and loading weights, in all, by their last reports."""
        return self._busy_seconds_of_lost + sum(report.busy_seconds for report in self.reports.values())

    @property
    def places(self) -> int:
        """How many groups the engines take at a time: what they sample at once, and one each that waits its turn."""
        taken = sum(self.outstanding[name] // self.group_size for name in self._full)
        return taken + (len(self.reports) - len(self._full)) * (self.groups_at_once + 1)

    async def sample(self, prompt: Prompt, sampling: Sampling, tries: int = MOST_TRIES) -> Any:
        """The completions of a prompt, as a `Group` value (evaluation, asking); asks again where an engine is lost."""
        try:
            group = await self._sampled(prompt, sampling)
            return await bounded(group, ANSWER_KEY, self.answer_seconds, f"group {prompt.group_id} has not arrived")
        except (EngineLost, ObjectLostError):
            if tries == 1 or self._start is None:
                raise
        return await self.sample(prompt, sampling, tries - 1)

    async def sample_and_score(self, prompt: Prompt, sampling: Sampling) -> tuple[Any, GroupSummary]:
        """Sample a group and score it; gives a reference to the scored group, and its summary.

        Raises:
            EngineLost: the engine was lost before the group was there.
        """
        group = await self._sampled(prompt, sampling)
        self._turn += 1
        reward = self.rewards[self._turn % len(self.rewards)]
        reference, summary = reward.score.options(num_returns=2).remote(group)
        try:
            return reference, await self._scored(reward, summary)
        except ObjectLostError as error:  # a large group stays on its engine's node until it is scored
            raise EngineLost(f"group {prompt.group_id} was lost with its node") from error

    async def _scored(self, reward: Any, summary: Awaitable[GroupSummary]) -> GroupSummary:
        """What a reward actor tells of a group.

        Its functions have limits of their own, and a group may wait for its turn with them for longer than any other
        answer takes: after the limit of such an answer the actor is asked whether it is there.
        """
        answer = asyncio.ensure_future(summary)
        while not (await asyncio.wait([answer], timeout=self.answer_seconds))[0]:
            await bounded(reward.ready.remote(), ANSWER_KEY, self.answer_seconds, "the reward actor does not answer")
        return answer.result()

    async def update(self, update: Update) -> None:
        """Load a version into every engine, while the learner publishes it; one that is late is replaced."""
        self._newest = update
        await asyncio.gather(*(self._update(name, actor, update) for name, actor in self.actors.items()))

    async def _update(self, name: str, actor: Any, update: Update) -> None:
        try:
            await self._unless_lost(name, actor, self._load(name, actor, update))
        except EngineLost:
            if self._start is None:
                raise

    async def _load(self, name: str, actor: Any, update: Update) -> EngineReport:
        """Have an engine take every bucket of a version as the learner gives them; the report that it is loaded."""
        if self._expecting.get(name) is not actor:
            what = f"{name} has not noted the layout of the weights"
            await bounded(actor.expect.remote(update.layout), ANSWER_KEY, self.answer_seconds, what)
            self._expecting[name] = actor
        loaded = await update.send(actor)
        what = f"{name} has not taken version {update.version}"
        report = await bounded(loaded, "rollout.update_timeout_seconds", self.update_seconds, what)
        if report.version < update.version:
            raise WorkerError(f"{name} reports version {report.version} after the update to {update.version}")
        return report

    async def sample_from_each(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """References to the completions of a prompt by every engine, by its name; nothing of one that is lost."""
        names = list(self.actors)
        asked = (self._sampled_by(name, prompt, sampling) for name in names)
        given = await asyncio.gather(*asked, return_exceptions=True)
        for result in given:
            if isinstance(result, BaseException) and not isinstance(result, EngineLost):
                raise result
        return {name: result for name, result in zip(names, given, strict=True) if not isinstance(result, EngineLost)}

    def replace(self, name: str, why: str, actor: Any = None) -> None:
        """Have another engine take the place of one that is not what it should be, if it is still that actor."""
        if name in self.actors and actor in (None, self.actors[name]):
            self._lose(name, self.actors[name], why)

    async def _sampled(self, prompt: Prompt, sampling: Sampling) -> Any:
        """A reference to the completions of a prompt, once they are there; the group itself stays with its engine."""
        while not self.actors:
            await self._another()
        free: Collection[str] = self.outstanding
        if self._full and len(self._full) < len(free):
            free = [name for name in free if name not in self._full]
        return await self._sampled_by(min(free, key=self.outstanding.__getitem__), prompt, sampling)

    async def _sampled_by(self, name: str, prompt: Prompt, sampling: Sampling) -> Any:
        if name not in self.actors:
            raise EngineLost(f"{name} is gone")
        actor = self.actors[name]
        self.outstanding[name] += sampling.completions
        self.sampling += 1
        try:
            group, report = actor.generate.options(num_returns=2).remote(prompt, prompt.clip.features, sampling)
            what = f"{name} has not finished group {prompt.group_id}"
            sampled = bounded(report, "rollout.request_timeout_seconds", self.request_seconds, what)
            await self._unless_lost(name, actor, sampled)
            return group
        finally:
            if self.actors.get(name) is actor:
                self.outstanding[name] -= sampling.completions
                if not self.outstanding[name]:
                    self._full.discard(name)  # whatever it last told, there is nothing left in its cache
            self.sampling -= 1
            self.on_place()

    async def _unless_lost(self, name: str, actor: Any, answer: Awaitable[EngineReport]) -> None:
        """Wait for what an engine reports, and keep it.

        Raises:
            EngineLost: the engine died or was late, and has been removed.
        """
        try:
            report = await answer
        except (*GONE, EngineDied, WorkerError) as error:
            self._lose(name, actor, last_line(error))
            raise EngineLost(str(error)) from error
        if self.actors.get(name) is actor:
            self._heard(name, report)

    def _heard(self, name: str, report: EngineReport) -> None:
        """Keep the newest report; answers may overtake each other."""
        before = self.reports[name]
        if (report.version, report.busy_seconds) < (before.version, before.busy_seconds):
            return
        self.reports[name] = report
        self._versions += Counter({report.version: 1})
        self._versions -= Counter({before.version: 1})
        (self._full.add if report.kv_cache_use >= KV_CACHE_FULL else self._full.discard)(name)

    def _join(self, name: str, actor: Any, version: int) -> None:
        self.actors[name], self.outstanding[name] = actor, 0
        self.reports[name] = EngineReport(version, 0.0, 0.0)
        self._versions += Counter({version: 1})
        self.on_place()

    def _lose(self, name: str, actor: Any, why: str) -> None:
        """Remove an engine, unless somebody else who waited for it has done so, and have another take its place."""
        if self._start is None or self.actors.get(name) is not actor:
            return
        self._say(f"{name} is lost, and another takes its place: {why}")
        self.lost += 1
        del self.actors[name], self.outstanding[name]
        report = self.reports.pop(name)
        self._versions -= Counter({report.version: 1})
        self._full.discard(name)
        self._busy_seconds_of_lost += report.busy_seconds
        self._end(name, actor)
        self._count(name, why)
        self.begin(name)

    def begin(self, name: str) -> None:
        """Have an engine of that name started, which joins when it has the newest weights."""
        assert self._start is not None
        self.failed.pop(name, None)
        self._starts[name] = asyncio.create_task(self._bring(name, self._start))

    async def _bring(self, name: str, start: Callable[[str], Awaitable[Any]]) -> None:
        try:
            actor = await self._started(name, start)
            try:
                version = self._first_version
                while self._newest is not None and version < max(self._newest.version, self.version):
                    version = (await self._load(name, actor, self._newest)).version
            except Exception:
                self._end(name, actor)
                raise
            self._join(name, actor, version)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on, and the user is told
            self.failed[name] = str(error)
            self._say(f"{name} could not be started, {len(self.actors)} engines go on: {error}")
        finally:
            del self._starts[name]

    async def _started(self, name: str, start: Callable[[str], Awaitable[Any]], tries: int = MOST_TRIES) -> Any:
        try:
            return await start(name)
        except GONE as error:  # Ray may have put it on a node that has died, and not noticed yet
            self._count(name, f"it ended while it was started: {last_line(error)}")
            if tries == 1:
                raise
        return await self._started(name, start, tries - 1)

    def close(self) -> None:
        """Start nothing any more."""
        self._start = None
        for task in self._starts.values():
            task.cancel()

    async def _another(self) -> None:
        """Wait for an engine where none is left.

        Raises:
            WorkerError: none could be started.
        """
        if not self._starts:
            raise WorkerError(": ".join(["no engine is left", *list(self.failed.values())[-1:]]))
        await asyncio.wait(self._starts.values(), return_when=asyncio.FIRST_COMPLETED)
