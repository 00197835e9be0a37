"""The control loop: draws questions, has groups sampled and scored, has the learner step, and sends the weights back.

It moves references only: no clip, feature, completion or weight passes through this process.

Synchronous: the groups of a step are sampled by version v, trained into version v + 1, and the engines take v + 1
before the next step draws.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.asking import Asker, Unusable
from cluster.evaluation import ask_all
from cluster.ledger import Ledger
from cluster.metrics import Metrics
from cluster.phases import PROFILED_STEPS, Profile, StepClock
from cluster.progress import Reporter
from cluster.run_directory import RunDirectory, RunError
from cluster.scoring import score, without_rows
from cluster.workers import Workers
from configs.schema import Config
from data.order import DataOrder, Draw
from data.types import Example, GroupSummary, Sampling
from learner.result import UpdateResult

SPLITS = ("train", "validation", "test")

MENDS = {
    "clip_": "data.audio_dir may name the wrong directory",
    "prompt_": "raise rollout.max_model_tokens or lower rollout.max_completion_tokens",
    "unscored": "the functions of `rewards` give None or raise",
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
class Ready:
    """A scored group, waiting for its step."""

    group_id: str
    reference: Any
    summary: GroupSummary


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


class Controller:
    """One run, from its state at a step to `run.max_steps`."""

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
        self.version = int(state["step"]) if state else 0
        self.ledger = Ledger.from_json(state["ledger"]) if state else Ledger()
        position = int(state["position"]) if state else 0
        self.order = DataOrder(len(questions.train), config.run.seed, position)
        self._dropped: list[tuple[str, Example, str]] = []
        self._train_seconds = float(state["train_seconds"]) if state else 0.0
        self._started = time.monotonic()
        self._clock = StepClock()
        self._profile = profile

    async def run(self) -> dict[str, Any]:
        """Train to the end; returns what `summary.json` holds."""
        base = await self.evaluate_test("base")
        self._started = time.monotonic()
        with self.reporter.steps(self.version, self.config.run.max_steps) as lines:
            while self.version < self.config.run.max_steps:
                line = await self.step()
                self.run_directory.append_metrics(line)
                self.metrics.record(line)
                lines.show(line)
                await self._profiled(line)
                if self._due(self.config.checkpoint.every_steps) or self.version == self.config.run.max_steps:
                    await self.checkpoint()
        if self._profile is not None:
            self.reporter.say("no profile: it begins after the first step of a launch, and there was no other")
        train_seconds = self.train_seconds
        await self.workers.log.written()
        trained = await self.evaluate_test("trained")
        silent = await self.evaluate_test("silent") if self.config.evaluate.silent else None
        figures = {"base": base, "trained": trained, "silent": silent}
        return figures | {"train_seconds": train_seconds, "bad_rows": self.questions.bad_rows()}

    async def step(self) -> dict[str, Any]:
        """One optimizer step; returns its line of `metrics.jsonl`."""
        self._clock = StepClock()
        ready = await self._sample()
        staleness = self.version - min(group.summary.oldest_version for group in ready)
        if staleness > self.config.algorithm.max_staleness:
            raise AssertionError(f"a token is {staleness} versions old, algorithm.max_staleness is less")
        references = [group.reference for group in ready]
        last = self.version + 1 == self.config.run.max_steps
        prefetched = [] if last else [self._prefetch()]
        result, *_ = await asyncio.gather(self.workers.learner.step(references, self.version), *prefetched)
        self.ledger.train(group.group_id for group in ready)
        self.version += 1
        self._clock.stepped()
        update = await self.workers.learner.publish(self.version)
        await self.workers.rollout.update(update)
        seconds = self._clock.synced(result.seconds)
        await self._write_log(references, result)
        validation = None
        if self._due(self.config.evaluate.every_steps) and self.questions.validation:
            validation = await self._evaluate_validation()
        self.ledger.check()
        return self._line(ready, result, seconds, update.size_bytes) | {
            "staleness_max": staleness,
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
        facts = {
            "step": self.version,
            "position": self.order.position,
            "ledger": self.ledger.to_json(),
            "train_seconds": self.train_seconds,
            "questions": self.questions.digests(),
        }
        await self.workers.learner.save(str(temporary.absolute()), facts)
        await self.workers.log.written()
        self.run_directory.finish_checkpoint(temporary, self.config.checkpoint.keep)

    async def _sample(self) -> list[Ready]:
        """The groups of a step: as many as `prompts_per_step`, drawing again for each that is dropped."""
        wanted = self.config.algorithm.prompts_per_step
        ready: list[Ready] = []
        fruitless: Counter[str] = Counter()
        while len(ready) < wanted:
            draws = [self.order.take() for _ in range(wanted - len(ready))]
            before = self.ledger.dropped.copy()
            groups = [group for group in await asyncio.gather(*map(self._group, draws)) if group is not None]
            ready += groups
            fruitless = Counter() if groups else fruitless + (self.ledger.dropped - before)
            if fruitless.total() >= self.order.count:
                raise NothingToTrain(fruitless, self._dropped[-1][2])
        return ready

    async def _prefetch(self) -> None:
        """Have the clips of the next step prepared while the learner works."""
        draws = self.order.peek(self.config.algorithm.prompts_per_step)
        await self.workers.audio.prefetch([self.questions.train[draw.index].clip for draw in draws])

    async def _group(self, draw: Draw) -> Ready | None:
        """One question asked and scored, or dropped and counted."""
        example = self.questions.train[draw.index]
        group_id = f"{draw.epoch}-{draw.index}"
        self.ledger.admit(group_id)
        prompt = await self.asker.prompt(example, group_id, draw.epoch)
        self._clock.encoded()
        if isinstance(prompt, Unusable):
            return self._drop(group_id, example, prompt.reason, prompt.detail)
        rollout = self.config.rollout
        sampling = Sampling(
            self.config.algorithm.group_size, rollout.temperature, rollout.max_completion_tokens, rollout.ignore_stop
        )
        asked = time.perf_counter()
        reference, summary = await self.workers.rollout.sample_and_score(prompt, sampling)
        self._clock.scored(summary.score_seconds)
        if self._profile is not None and self._profile.recording:
            self._profile.group(group_id, time.perf_counter() - asked)
        if summary.completions < 2:
            return self._drop(group_id, example, "unscored", "; ".join(summary.problems))
        return Ready(group_id, reference, summary)

    def _drop(self, group_id: str, example: Example, reason: str, detail: str) -> None:
        self.ledger.drop(group_id, reason)
        self._dropped.append((group_id, example, f"{reason}: {detail}"))
        if self.ledger.dropped[reason] == 1:
            self.reporter.say(f"dropped {example.id} ({reason}): {detail} [further ones are counted in metrics.jsonl]")

    async def _write_log(self, references: list[Any], result: UpdateResult) -> None:
        """Have the step's groups written while the next step samples."""
        directory = str(self.run_directory.rollouts.absolute())
        await self.workers.log.write(directory, self.version, references, result.advantages, self._dropped)
        self._dropped = []

    async def _evaluate_validation(self) -> float:
        questions = self.questions.validation[: self.config.evaluate.questions]
        result = await self._evaluate(f"validation_step_{self.version}", questions, samples=0)
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

    def _line(
        self, ready: list[Ready], result: UpdateResult, seconds: dict[str, float], sync_bytes: int
    ) -> dict[str, Any]:
        summaries = [group.summary for group in ready]
        elapsed = sum(seconds.values())
        completions = sum(summary.completions for summary in summaries)
        sampled = len(summaries) * self.config.algorithm.group_size
        tokens = sum(summary.completion_tokens for summary in summaries)

        def mean(values: list[float]) -> float:
            weighted = zip(values, summaries, strict=True)
            return sum(value * summary.completions for value, summary in weighted) / max(completions, 1)

        by_name = {name: mean([summary.rewards[name] for summary in summaries]) for name in summaries[0].rewards}
        counts = self.ledger.counts()
        return {
            "step": self.version,
            "time": time.time(),
            "reward_mean": mean([summary.total for summary in summaries]),
            "accuracy": by_name.get("accuracy"),
            "rewards": by_name,
            "kl": result.kl,
            "entropy": result.entropy,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "completions": completions,
            "completion_tokens_mean": tokens / sampled,
            "truncated": sum(summary.truncated for summary in summaries),
            "zero_variance_groups": result.zero_variance_groups,
            "logprob_difference_max": result.logprob_difference_max,
            "logprob_difference_mean": result.logprob_difference_mean,
            **counts,
            "dropped_by_reason": dict(self.ledger.dropped),
            "packed_tokens": result.packed_tokens,
            "tokens_per_second": tokens / elapsed,
            "completions_per_second": sampled / elapsed,
            "sync_bytes": sync_bytes,
            "step_seconds": elapsed,
            "seconds": seconds,
        }
