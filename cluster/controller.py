"""The control loop: draws questions, has groups sampled and scored, has the learner step, and sends the weights back.

It moves references only: no clip, feature or weight passes through this process, and no completion but the answers of
evaluations.

Two tasks go on side by side. One starts a group whenever `admission` has room for it and the engines have a place; the
other trains a step as soon as `admission` gives its groups, and has the new weights delivered while the next step is
gathered. How far the one may run ahead of the other is `algorithm.max_staleness`, and nothing else: at 0 a step's
groups start when the engines have the version that they train, and this is synchronous training.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.admission import Admission
from cluster.asking import Unusable
from cluster.phases import StepClock
from cluster.rollout_pool import EngineLost
from cluster.step_line import Lengths, step_line
from cluster.training_loop import NothingToTrain, RewardFails, TrainingLoop, group_name
from cluster.verification import Verification
from data.order import Draw
from data.types import GroupSummary, LoggedStep, Sampling
from learner.result import UpdateResult
from rewards.failing import Failing

MOST_ISSUES = 3
"""How often a group is asked for, where the engine that samples it is lost each time: it may be what kills them."""


@dataclass(frozen=True, slots=True)
class Started:
    """A group in flight."""

    draw: Draw
    number: int
    """How many groups had started when it had."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A scored group, waiting for its step."""

    group_id: str
    reference: Any
    summary: GroupSummary
    encoded: float
    """When its prompt was prepared, and below when it was scored, by `time.perf_counter`."""
    scored: float


class Controller(TrainingLoop):
    """Training on what the engines sample, by policy gradients."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        algorithm = self.config.algorithm
        self.admission = Admission(
            algorithm.prompts_per_step, algorithm.max_staleness, self.config.run.max_steps, self.version
        )
        self._in_flight: dict[str, Started] = {}
        """Groups that are neither trained nor dropped, in the order of their start."""
        self._ready: dict[str, Ready] = {}
        self._fruitless: Counter[str] = Counter()
        """Reasons of the drops since a group was last scored."""
        self._fruitless_since = 0
        """How many groups had been started when the first of them was dropped."""
        self._changed = asyncio.Event()
        self._suspected: set[int] = set()
        """Questions, by index, that were dropped once with their engines; those beside them may be to blame."""
        self._evaluating = False
        self._preparing = 0
        """Groups whose prompt is being made."""
        self.workers.rollout.on_place = self._changed.set
        self._verification = Verification(self.config, self.asker, self.workers)
        self._failing = Failing(algorithm.prompts_per_step)
        self._lengths = Lengths()
        self._clock = StepClock()

    async def train(self, until: int, show: Callable[[dict[str, Any]], None]) -> None:
        """As every loop does; afterwards the engines have the newest weights too."""
        self.admission.last_step = until
        await super().train(until, show)

    def _beside(self) -> None:
        self._tasks.create_task(self._admit())

    def _delivered(self) -> None:
        self._changed.set()

    def _outstanding(self) -> Iterable[Draw]:
        return [*(started.draw for started in self._in_flight.values()), *super()._outstanding()]

    async def _step(self) -> dict[str, Any]:
        """One step; returns its line of `metrics.jsonl`."""
        clock = self._clock = StepClock()
        busy = self.workers.rollout.busy_seconds
        ready, buffered, result, logprobs = await self._learned()
        last = max(ready, key=lambda group: group.scored)
        clock.encoded, clock.scored = max(group.encoded for group in ready), last.scored
        clock.score_seconds = last.summary.score_seconds
        staleness = Counter(self.version - group.summary.oldest_version for group in ready)
        draw = self._in_flight[ready[0].group_id].draw
        counts = self._trained(ready)
        clock.stepped = time.perf_counter()
        publish_seconds = await self._delivery.publish(self.version, self._tasks)
        if self.config.algorithm.max_staleness == 0:
            await self._delivery.over()  # nothing starts before that anyway: the time is this step's
        seconds = clock.synced(result.seconds)
        busy = self.workers.rollout.busy_seconds - busy
        await self._write_log([group.reference for group in ready], result, logprobs)
        verified = await self._verified(draw) if self._due(self.config.rollout.verify_every) else None
        validation = await self._validation()
        summaries = [group.summary for group in ready]
        sampled = len(ready) * self.config.algorithm.group_size
        return step_line(self.version, clock.ended_at, summaries, result, seconds, sampled) | {
            "length_bias": self._lengths.bias,
            **counts,
            "staleness": {str(age): count for age, count in sorted(staleness.items())},
            "staleness_max": max(staleness),
            "buffered": buffered,
            "engines": len(self.workers.rollout.reports),
            "engines_lost": self.workers.rollout.lost,
            "rollout_busy": busy / (max(len(self.workers.rollout.reports), 1) * sum(seconds.values())),
            "learner_busy": sum(result.seconds.values()) / sum(seconds.values()),
            "publish_seconds": publish_seconds,
            **self._delivery.figures,
            "verified_difference": verified,
            "validation_accuracy": validation,
        }

    async def _admit(self) -> None:
        """Start groups, as many and as soon as there may be."""
        while self.version < self.admission.last_step:
            rollout = self.workers.rollout
            places = rollout.places - rollout.sampling - self._preparing
            if not self._evaluating and places > 0 and self.admission.room(rollout.version):
                self._start()
            else:
                await self._change()

    def _start(self) -> None:
        """Start the next group: one that a checkpoint found outstanding, or the next of the order."""
        draw = self._next_draw()
        group_id = group_name(draw)
        self.ledger.admit(group_id)
        self.admission.start(group_id, self.workers.rollout.version)
        self._in_flight[group_id] = Started(draw, self.ledger.admitted)
        remaining = self.config.run.max_steps - self.admission.version
        self._prefetch(self.config.algorithm.prompts_per_step * remaining - self.admission.outstanding)
        self._prepare(group_id, draw)

    def _prepare(self, group_id: str, draw: Draw, issue: int = 0) -> None:
        """Ask for a group. It counts at once: its task begins when all have started that there is room for."""
        self._preparing += 1
        self._tasks.create_task(self._group(group_id, draw, issue))

    async def _learned(self) -> tuple[list[Ready], int, UpdateResult, Sequence[Any]]:
        """The groups of the next step, how many others were finished then, and what the learner made of it.

        The last is references to the log-probs that it gave their tokens. Groups from which it could not learn are
        dropped, and others take their place.
        """
        while True:
            ready = await self._batch()
            buffered = self.admission.finished
            result, logprobs = await self.workers.learner.step([group.reference for group in ready], self.version)
            if not result.skipped:
                if 0 < result.updates < (wanted := self.config.algorithm.updates_per_step):
                    self.reporter.say(
                        f"step {self.version + 1} ends after {result.updates} of {wanted} updates: loss or gradient of "
                        f"the next was not finite"
                    )
                return ready, buffered, result, logprobs
            self._skip([(self._in_flight.pop(group.group_id).draw, group.reference) for group in ready], result)
            self.admission.skip()
            self._changed.set()

    async def _batch(self) -> list[Ready]:
        """The groups of the next step, once they are there."""
        while not (names := self.admission.take()):
            await self._change()
        return [self._ready.pop(name) for name in names]

    async def _change(self) -> None:
        """Wait until a group has finished or gone, a step was taken, or the engines have new weights."""
        self._changed.clear()
        await self._changed.wait()

    def _trained(self, ready: list[Ready]) -> dict[str, Any]:
        """The groups are part of the policy; gives the ledger's counts at that moment."""
        for group in ready:
            del self._in_flight[group.group_id]
            self._lengths.trained(group.summary)
        self.ledger.train(group.group_id for group in ready)
        self.version += 1
        self._changed.set()
        return self._counts()

    async def _verified(self, draw: Draw) -> float | None:
        """The largest difference of a log-prob between an engine and the learner, when both have the newest weights."""
        await self._delivery.over()
        return await self._verification.difference(self.version, self.questions.train[draw.index], draw.epoch)

    async def _group(self, group_id: str, draw: Draw, issue: int) -> None:
        """One question asked and scored, or dropped and counted."""
        if draw.index in self._quarantined:
            self._preparing -= 1
            self._drop(group_id, "quarantined", "the engines that sampled it were lost, again and again")
            return
        rollout = self.config.rollout
        sampling = Sampling(
            self.config.algorithm.group_size, rollout.temperature, rollout.max_completion_tokens, rollout.ignore_stop
        )
        prompt = await self._prompt(draw, issue)
        self._preparing -= 1
        encoded = time.perf_counter()
        if isinstance(prompt, Unusable):
            self._drop(group_id, prompt.reason, prompt.detail)
            return
        asked = time.perf_counter()
        try:
            reference, summary = await self.workers.rollout.sample_and_score(prompt, sampling)
        except EngineLost as lost:
            self._lost(group_id, draw, str(lost))
            return
        if self._profile is not None and self._profile.recording:
            self._profile.group(group_id, time.perf_counter() - asked)
        for note in summary.notes:
            self.reporter.say(note)
        if (failing := self._failing.note(summary.faulted)) is not None:
            raise RewardFails(failing, self._failing.first_groups, "; ".join(summary.problems))
        if summary.completions < 2:
            self._drop(group_id, summary.drop_reason, "; ".join(summary.problems), reference)
            return
        if self.config.algorithm.dynamic_sampling and not summary.spread:
            self._drop(group_id, "zero_variance", "its completions have the same reward", reference)
            return
        self.admission.finish(group_id, summary.oldest_version)
        self._ready[group_id] = Ready(group_id, reference, summary, encoded, time.perf_counter())
        self._lengths.sampled(summary)
        self._fruitless.clear()
        self._changed.set()

    def _lost(self, group_id: str, draw: Draw, why: str) -> None:
        """The engine that sampled the group is gone: ask again, but not for ever."""
        issue = self.ledger.reissue(group_id)
        if issue == MOST_ISSUES:
            (self._quarantined if draw.index in self._suspected else self._suspected).add(draw.index)
            self._drop(group_id, "engine_lost", why)
            return
        self.admission.restart(group_id, self.workers.rollout.version)
        self._prepare(group_id, draw, issue)

    def _drop(self, group_id: str, reason: str, detail: str, group: Any = None) -> None:
        draw = self._in_flight.pop(group_id).draw
        self._count_drop(draw, reason, detail, group)
        self.admission.drop(group_id)
        self._changed.set()
        if not self._fruitless:
            self._fruitless_since = self.ledger.admitted
        self._fruitless[reason] += 1
        oldest = next(iter(self._in_flight.values()), None)  # it may still bear fruit, if it is from before
        if self._fruitless.total() >= self.order.count and (oldest is None or oldest.number > self._fruitless_since):
            raise NothingToTrain(self._fruitless, next(reversed(self._dropped.values())).why)

    async def _write_log(self, references: Sequence[Any], result: UpdateResult, logprobs: Sequence[Any]) -> None:
        """Have the step's groups written while the next step samples."""
        step = LoggedStep(self.version, references, result.advantages, logprobs, [*self._dropped.values()])
        self._dropped = {}
        await self.workers.log.write(self.run_directory.place("rollouts"), self.run_directory.place("clips"), step)

    async def _evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        await self._engines_are_current()
        self._evaluating = True  # no group starts meanwhile
        result = await super()._evaluate(*arguments, **keywords)
        self._evaluating = False
        self._changed.set()
        return result
