"""The control loop: draws questions, has groups sampled and scored, has the learner step, and sends the weights back.

It moves references only: no clip, feature, completion or weight passes through this process.

Two tasks go on side by side. One starts a group whenever `admission` has room for it and the engines have a place; the
other trains a step as soon as `admission` gives its groups, and has the new weights delivered while the next step is
gathered. How far the one may run ahead of the other is `algorithm.max_staleness`, and nothing else: at 0 a step's
groups start when the engines have the version that they train, and this is synchronous training.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.admission import Admission
from cluster.asking import Asker, Unusable
from cluster.delivery import Delivery
from cluster.evaluation import ask_all
from cluster.ledger import Ledger
from cluster.metrics import Metrics
from cluster.phases import PROFILED_STEPS, Profile, StepClock
from cluster.progress import Reporter
from cluster.rollout_pool import EngineLost
from cluster.run_directory import RunDirectory, RunError
from cluster.scoring import score, without_rows
from cluster.step_line import Lengths, Ready, step_line
from cluster.verification import Verification
from cluster.workers import Workers
from configs.schema import Config
from data.order import DataOrder, Draw
from data.types import Example, Sampling
from learner.result import UpdateResult

SPLITS = ("train", "validation", "test")

MOST_ISSUES = 3
"""How often a group is asked for, where the engine that samples it is lost each time: it may be what kills them."""

MENDS = {
    "clip_": "data.audio_dir may name the wrong directory",
    "prompt_": "raise rollout.max_model_tokens or lower rollout.max_completion_tokens",
    "engine_lost": "the engines die of these questions, or rollout.request_timeout_seconds is too short",
    "reward_": "try the functions of `rewards` on a run's rollouts with python -m rewards.check",
}
"""What to look at, by how the most frequent reason of drops begins."""


class NothingToTrain(ValueError):
    """No question of the training file could be used."""

    def __init__(self, reasons: Counter[str], last: str) -> None:
        reason, count = reasons.most_common(1)[0]
        mend = next((mend for start, mend in MENDS.items() if reason.startswith(start)), "")
        super().__init__(
            f"{reasons.total()} questions in a row could not be used, {count} of them for {reason}"
            f"{f': {mend}' if mend else ''}. All reasons: {dict(reasons)}; the last: {last}"
        )


@dataclass(frozen=True, slots=True)
class Started:
    """A group in flight."""

    draw: Draw
    number: int
    """How many groups had started when it had."""


@dataclass(slots=True)
class Questions:
    """The examples of a run."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    bad: tuple[Mapping[str, Any], ...] = ()
    """Rows of the files that are none, as `bad_rows.jsonl` keeps them, each with its `split`."""

    def bad_rows(self) -> dict[str, int]:
        """How many there are, by split."""
        return {split: sum(row["split"] == split for row in self.bad) for split in SPLITS}

    def digests(self) -> dict[str, str]:
        """A hash of what is asked, by split: a resume goes on with the same questions in the same order."""
        return {
            split: hashlib.sha256(
                json.dumps([(row.id, row.question, row.choices, row.answer) for row in getattr(self, split)]).encode()
            ).hexdigest()
            for split in SPLITS
        }


def state_at(version: int, prompts_per_step: int) -> dict[str, Any]:
    """What a checkpoint would tell of a run that begins at a version and has nothing behind it."""
    return {
        "step": version,
        "position": version * prompts_per_step,
        "outstanding": [],
        "dropped_since": [],
        "ledger": Ledger().to_json(),
        "train_seconds": 0.0,
    }


def group_name(draw: Draw) -> str:
    """The id of the group that a draw asks for, the only one in the run."""
    return f"{draw.epoch}-{draw.index}"


class Controller:
    """One run, from its state at a step to `run.max_steps`."""

    _tasks: asyncio.TaskGroup
    """What goes on beside the steps, while they are taken."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        workers: Workers,
        asker: Asker,
        questions: Questions,
        reporter: Reporter,
        metrics: Metrics,
        state: dict[str, Any] | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.config = config
        self.run_directory = run
        self.workers = workers
        self.asker = asker
        self.questions = questions
        self.reporter = reporter
        self.metrics = metrics
        algorithm = config.algorithm
        self.version = int(state["step"]) if state else 0
        """Steps applied."""
        self.admission = Admission(
            algorithm.prompts_per_step, algorithm.max_staleness, config.run.max_steps, self.version
        )
        self.ledger = Ledger.from_json(state["ledger"]) if state else Ledger()
        position = int(state["position"]) if state else 0
        self.order = DataOrder(len(questions.train), config.run.seed, position)
        self._again = deque(Draw(*draw) for draw in state["outstanding"]) if state else deque()
        self._in_flight: dict[str, Started] = {}
        """Groups that are neither trained nor dropped, in the order of their start."""
        self._fruitless_since = 0
        """How many groups had been started when the first of `_fruitless` was dropped."""
        self._ready: dict[str, Ready] = {}
        self._fruitless: Counter[str] = Counter()
        self._prefetched = position
        self._changed = asyncio.Event()
        self._evaluating = False
        self._preparing = 0
        """Groups whose prompt is being made."""
        workers.rollout.on_place = self._changed.set
        self._delivery = Delivery(workers, self._changed.set)
        self._verification = Verification(config, asker, workers)
        self._lengths = Lengths()
        dropped = state["dropped_since"] if state else []
        self._dropped = [(Draw(epoch, index), reason) for epoch, index, reason in dropped]
        self._train_seconds = float(state["train_seconds"]) if state else 0.0
        self._started = time.monotonic()
        self._clock = StepClock()
        self._profile = profile

    async def run(self) -> dict[str, Any]:
        """Train to the end; returns what `summary.json` holds."""
        base = await self.evaluate_test("base")
        self._started = time.monotonic()
        with self.reporter.steps(self.version, self.config.run.max_steps) as lines:
            await self.train(self.config.run.max_steps, lines.show)
        if self._profile is not None:
            self.reporter.say("no profile: it begins after the first step of a launch, and there was no other")
        train_seconds = self.train_seconds
        await self.workers.log.written()
        trained = await self.evaluate_test("trained")
        silent = await self.evaluate_test("silent") if self.config.evaluate.silent else None
        figures = {"base": base, "trained": trained, "silent": silent}
        return figures | {"train_seconds": train_seconds, "bad_rows": self.questions.bad_rows()}

    async def train(self, until: int, show: Callable[[dict[str, Any]], None]) -> None:
        """Take the steps up to that one, each with its line, its checkpoint and what else is due.

        Afterwards no group is outstanding, and the engines have the weights.

        Args:
            until: number of the last step, at most `run.max_steps`.
            show: called with each line of `metrics.jsonl`.
        """
        self.admission.last_step = until
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._admit())
                while self.version < until:
                    line = await self._step()
                    self.run_directory.append_metrics(line)
                    self.metrics.record(line)
                    show(line)
                    await self._profiled(line)
                    if self._due(self.config.checkpoint.every_steps) or self.version == self.config.run.max_steps:
                        await self.checkpoint()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others are what it took with it

    async def _step(self) -> dict[str, Any]:
        """One step; returns its line of `metrics.jsonl`."""
        clock = self._clock = StepClock()
        busy = self.workers.rollout.busy_seconds
        ready = await self._batch()
        last = max(ready, key=lambda group: group.scored)
        clock.encoded, clock.scored = max(group.encoded for group in ready), last.scored
        clock.score_seconds = last.summary.score_seconds
        buffered = self.admission.finished
        staleness = Counter(self.version - group.summary.oldest_version for group in ready)
        references = [group.reference for group in ready]
        result = await self.workers.learner.step(references, self.version)
        draw = self._in_flight[ready[0].group_id].draw
        counts = self._trained(ready)
        clock.stepped = time.perf_counter()
        publish_seconds = await self._delivery.publish(self.version, self._tasks)
        if self.config.algorithm.max_staleness == 0:
            await self._delivery.over()  # nothing starts before that anyway: the time is this step's
        seconds = clock.synced(result.seconds)
        busy = self.workers.rollout.busy_seconds - busy
        await self._write_log(references, result)
        verified = await self._verified(draw) if self._due(self.config.rollout.verify_every) else None
        validation = None
        if self._due(self.config.evaluate.every_steps) and self.questions.validation:
            validation = await self._evaluate_validation()
        summaries = [group.summary for group in ready]
        sampled = len(ready) * self.config.algorithm.group_size
        return step_line(self.version, summaries, result, seconds, sampled) | {
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

    async def _profiled(self, line: Mapping[str, Any]) -> None:
        """Note a step in the trace, which begins after the first and ends with the last that it has room for."""
        profile = self._profile
        if profile is None:
            return
        if profile.recording:
            profile.step(line["step"], line["seconds"], self._clock.ended_at)
        last = profile.steps == PROFILED_STEPS or (profile.recording and self.version == self.config.run.max_steps)
        if profile.steps == 0:
            await self.workers.learner.start_profile()
        elif last:
            await self.workers.learner.stop_profile(str(profile.learner_path.absolute()))
            self.reporter.say(f"profile: {profile.write()} opens in Perfetto")
            self._profile = None
        profile.steps += 1

    async def evaluate_test(self, name: str) -> dict[str, Any] | None:
        """Figures on the held-out questions: `base`, `trained` or `silent`; asked once, kept in `eval/NAME.json`."""
        if not self.questions.test:
            return None
        try:
            kept = self.run_directory.read_evaluation(name)
        except RunError as error:
            self.reporter.say(f"what it told is lost: {error}")
            kept = None
        if kept is None and name == "base" and self.version > 0:
            self.reporter.say(f"accuracy before training is unknown: the run goes on from step {self.version}")
            return None
        if kept is None:
            silent = name == "silent"
            samples = 0 if silent else self.config.evaluate.samples
            bad_rows = self.questions.bad_rows()["test"]
            kept = await self._evaluate(name, self.questions.test, samples, silent, bad_rows)
        return without_rows(kept)

    @property
    def train_seconds(self) -> float:
        """Seconds spent on training so far, before a resume and after it."""
        return self._train_seconds + time.monotonic() - self._started

    async def checkpoint(self) -> None:
        """Write `checkpoints/step_N`, with every step up to it in the rollout log."""
        temporary = self.run_directory.begin_checkpoint(self.version)
        outstanding = [*(started.draw for started in self._in_flight.values()), *self._again]
        facts = {
            "step": self.version,
            "position": self.order.position,
            "outstanding": [(draw.epoch, draw.index) for draw in outstanding],
            "dropped_since": [(draw.epoch, draw.index, reason) for draw, reason in self._dropped],
            "ledger": self.ledger.to_json(),
            "train_seconds": self.train_seconds,
            "questions": self.questions.digests(),
        }
        await self.workers.learner.save(str(temporary.absolute()), facts)
        await self.workers.log.written()
        self.run_directory.finish_checkpoint(temporary, self.config.checkpoint.keep)

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
        draw = self._again.popleft() if self._again else self.order.take()
        group_id = group_name(draw)
        self.ledger.admit(group_id)
        self.admission.start(group_id, self.workers.rollout.version)
        self._in_flight[group_id] = Started(draw, self.ledger.admitted)
        self._prefetch()
        self._tasks.create_task(self._group(group_id, draw))

    def _prefetch(self) -> None:
        """Have the clips of a step's groups prepared that start next, as far as the run will need them."""
        step = self.config.algorithm.prompts_per_step
        needed = step * (self.config.run.max_steps - self.admission.version) - self.admission.outstanding
        self._prefetched = max(self._prefetched, self.order.position)
        while self._prefetched < self.order.position + min(step, needed):
            draw = self.order.at(self._prefetched)
            self.workers.audio.prefetch(self.questions.train[draw.index].clip)
            self._prefetched += 1

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
        self.ledger.check()
        self.version += 1
        self._changed.set()
        return self.ledger.counts() | {"dropped_by_reason": dict(self.ledger.dropped)}

    async def _verified(self, draw: Draw) -> float | None:
        """The largest difference of a log-prob between an engine and the learner, when both have the newest weights."""
        await self._delivery.over()
        return await self._verification.difference(self.version, self.questions.train[draw.index], draw.epoch)

    async def _group(self, group_id: str, draw: Draw, issue: int = 0) -> None:
        """One question asked and scored, or dropped and counted."""
        rollout = self.config.rollout
        sampling = Sampling(
            self.config.algorithm.group_size, rollout.temperature, rollout.max_completion_tokens, rollout.ignore_stop
        )
        self._preparing += 1
        prompt = await self.asker.prompt(self.questions.train[draw.index], group_id, draw.epoch, issue)
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
        if summary.completions < 2:
            self._drop(group_id, summary.drop_reason, "; ".join(summary.problems))
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
            self._drop(group_id, "engine_lost", why)
            return
        self.admission.restart(group_id, self.workers.rollout.version)
        self._tasks.create_task(self._group(group_id, draw, issue))

    def _drop(self, group_id: str, reason: str, detail: str) -> None:
        draw = self._in_flight.pop(group_id).draw
        self.ledger.drop(group_id, reason)
        self.admission.drop(group_id)
        self._changed.set()
        self._dropped.append((draw, f"{reason}: {detail}"))
        if not self._fruitless:
            self._fruitless_since = self.ledger.admitted
        self._fruitless[reason] += 1
        oldest = next(iter(self._in_flight.values()), None)  # it may still bear fruit, if it is from before
        if self._fruitless.total() >= self.order.count and (oldest is None or oldest.number > self._fruitless_since):
            raise NothingToTrain(self._fruitless, self._dropped[-1][1])
        if self.ledger.dropped[reason] == 1:
            example = self.questions.train[draw.index]
            self.reporter.say(f"dropped {example.id} ({reason}): {detail} [further ones are counted in metrics.jsonl]")

    async def _write_log(self, references: list[Any], result: UpdateResult) -> None:
        """Have the step's groups written while the next step samples."""
        directory = str(self.run_directory.rollouts.absolute())
        dropped = [(group_name(draw), self.questions.train[draw.index], reason) for draw, reason in self._dropped]
        self._dropped = []
        await self.workers.log.write(directory, self.version, references, result.advantages, dropped)

    async def _evaluate_validation(self) -> float:
        """Ask with the newest weights; no group starts meanwhile."""
        questions = self.questions.validation[: self.config.evaluate.questions]
        await self._delivery.over()
        self._evaluating = True
        result = await self._evaluate(f"validation_step_{self.version}", questions, samples=0)
        self._evaluating = False
        self._changed.set()
        return float(result["accuracy"])

    async def _evaluate(
        self, name: str, examples: tuple[Example, ...], samples: int, silent: bool = False, bad_rows: int = 0
    ) -> dict[str, Any]:
        with self.reporter.questions(name, len(examples)) as advance:
            answers = await ask_all(
                self.asker,
                self.workers.rollout,
                examples,
                samples,
                self.config.rollout.max_completion_tokens,
                silent=silent,
                advance=advance,
            )
        result = {"step": self.version, **score(answers, self.config.data.prompt, bad_rows)}
        self.run_directory.write_evaluation(name, result)
        self.reporter.say(f"{name}: accuracy {result['accuracy']:.1%} on {result['questions']} questions")
        return result

    def _due(self, every: int) -> bool:
        return every > 0 and self.version % every == 0
