"""What every kind of training shares: steps with their lines, checkpoints, and evaluations around and between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.advice import Adviser
from cluster.asking import Asker, Unusable, as_asked
from cluster.delivery import Delivery
from cluster.errors import tasks
from cluster.evaluation.evaluation import ask_all
from cluster.evaluation.scoring import score, without_rows
from cluster.ledger import Ledger
from cluster.loggers import Loggers
from cluster.metrics import Metrics
from cluster.phases import PROFILED_STEPS, Profile
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.run_directory import RunDirectory, RunError
from cluster.saving import Saving
from cluster.verification import MOST_DIFFERENCE
from cluster.workers import Workers
from configs.schema import Config
from data.order import DataOrder, Draw
from data.types import Dropped, Example, Prompt
from learner.result import LessonResult, UpdateResult

MENDS = {
    "clip_": "data.audio_dir may name the wrong directory",
    "prompt_": "raise rollout.max_model_tokens or lower rollout.max_completion_tokens",
    "quarantined": "the engines die of these questions: see the rows that were dropped as engine_lost",
    "engine_lost": "the engines die of these questions, or rollout.request_timeout_seconds is too short",
    "zero_variance": "the questions are all too easy or too hard for algorithm.dynamic_sampling",
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


class NotFinite(ValueError):
    """Loss or gradient of several steps in a row was NaN or infinite."""

    def __init__(self, steps: int, last: str) -> None:
        super().__init__(
            f"{steps} steps in a row were skipped, the last for {last}. A new run from the last checkpoint with a "
            f"lower rate may hold: run.name=OTHER run.init_from=CHECKPOINT learner.learning_rate=LOWER; "
            f"learner.max_skipped_steps allows more"
        )


class RewardFails(ValueError):
    """A reward has failed every group so far."""

    def __init__(self, name: str, groups: int, last: str) -> None:
        super().__init__(
            f"the reward {name!r} has failed each of the first {groups} groups, so none can be trained; the last: "
            f"{last}. Mend it, and try it on a run's rollouts with python -m rewards.check"
        )


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


class TrainingLoop:
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
        loggers: Loggers | None = None,
    ) -> None:
        self.config = config
        self.run_directory = run
        self.workers = workers
        self.asker = asker
        self.questions = questions
        self.reporter = reporter
        self.metrics = metrics
        state = state or state_at(0, config.algorithm.prompts_per_step)
        self.version = int(state["step"])
        """Steps applied."""
        self.ledger = Ledger.from_json(state["ledger"])
        self.order = DataOrder(len(questions.train), config.run.seed, int(state["position"]))
        self._again = deque(Draw(*draw) for draw in state["outstanding"])
        """Draws that were begun before a resume; they come first."""
        self._prefetched = self.order.position
        self._delivery = Delivery(workers, self._delivered)
        self._dropped: dict[Draw, Dropped] = {}
        """Since the last step, in their order."""
        for epoch, index, why in state["dropped_since"]:
            self._note_drop(Draw(epoch, index), why)
        self._quarantined = set(state.get("quarantined", ()))
        """Questions, by index, whose engines were lost again and again: nobody is asked them any more."""
        self._steps_skipped = 0
        """Steps of this launch that could not be taken."""
        self._skipped_in_a_row = 0
        self._train_seconds = float(state["train_seconds"])
        self._started = time.monotonic()
        self._profile = profile
        self._adviser = Adviser(config)
        self._loggers = loggers or Loggers()
        self._saving = Saving(config, run, workers, reporter.say, metrics.progress)
        metrics.begin_with(self.ledger.counts(), self.ledger.dropped)
        metrics.watch(self.figures)

    def figures(self) -> dict[str, float]:
        """What is known between two steps, by the keys of `cluster.metrics`; may be asked by any thread."""
        rollout, disk = self.workers.rollout, self.run_directory.disk()
        of_disk = {} if disk is None else {"disk_free_bytes": disk.free, "disk_bytes": disk.total}
        return of_disk | {
            "engines": len(rollout.reports),
            "engines_lost": rollout.lost,
            "steps_skipped": self._steps_skipped,
            "checkpoints_failed": self._saving.failed,
            "delivery_pending_seconds": self._delivery.pending_seconds,
            "max_steps": self.config.run.max_steps,
            "max_staleness": self.config.algorithm.max_staleness,
            "most_difference": MOST_DIFFERENCE[self.config.model.dtype],
            "saving": float(self._saving.at_work),
            "checkpoint_bytes": self._saving.size_bytes,
        }

    async def _step(self) -> dict[str, Any]:
        """Take one step; gives its line of `metrics.jsonl`."""
        raise NotImplementedError

    def _beside(self) -> None:
        """Start what goes on beside the steps."""

    def _delivered(self) -> None:
        """The engines have new weights."""

    def _outstanding(self) -> Iterable[Draw]:
        """Draws that are begun and neither trained nor dropped."""
        return self._again

    async def _engines_are_current(self) -> None:
        """Wait until the engines have the newest weights."""
        await self._delivery.over()

    async def run(self) -> dict[str, Any]:
        """Train to the end; returns what `summary.json` holds."""
        base = await self.evaluate_test("base") if self.config.evaluate.before else None
        self._started = time.monotonic()
        with self.reporter.steps(self.version, self.config.run.max_steps) as lines:
            await self.train(self.config.run.max_steps, lines.show)
        if self._profile is not None:
            self.reporter.say("no profile: it begins after the first step of a launch, and there was no other")
        train_seconds = self.train_seconds
        await self.workers.log.written()
        trained = await self.evaluate_test("trained")
        silent = await self.evaluate_test("silent") if self.config.evaluate.silent else None
        await self._saving.published()
        figures = {"base": base, "trained": trained, "silent": silent}
        return figures | {"train_seconds": train_seconds, "bad_rows": self.questions.bad_rows()}

    async def train(self, until: int, show: Callable[[dict[str, Any]], None]) -> None:
        """Take the steps up to that one, each with its line, its checkpoint and what else is due.

        Afterwards no group is outstanding.

        Args:
            until: number of the last step, at most `run.max_steps`.
            show: called with each line of `metrics.jsonl`.
        """
        async with tasks() as self._tasks:
            self._beside()
            while self.version < until:
                line = await self._step()
                self._skipped_in_a_row = 0
                self.run_directory.append_metrics(line)
                self.metrics.record(line)
                self._loggers.line(line)
                show(line)
                for advice in self._adviser.look(line):
                    self.reporter.say(advice)
                await self._profiled(line)
                if self._due(self.config.checkpoint.every_steps) or self.version == self.config.run.max_steps:
                    await self._saving.checkpoint(self.version, self._facts, self._tasks)
                await self._saving.publish()

    async def _profiled(self, line: Mapping[str, Any]) -> None:
        """Note a step in the trace, which begins after the first and ends with the last that it has room for."""
        profile = self._profile
        if profile is None:
            return
        if profile.recording:
            profile.step(line["step"], line["seconds"], line["time"])
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

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint tells of the run."""
        return {
            "step": self.version,
            "position": self.order.position,
            "outstanding": [(draw.epoch, draw.index) for draw in self._outstanding()],
            "dropped_since": [(draw.epoch, draw.index, drop.why) for draw, drop in self._dropped.items()],
            "ledger": self.ledger.to_json(),
            "quarantined": sorted(self._quarantined),
            "train_seconds": self.train_seconds,
            "questions": self.questions.digests(),
        }

    def _next_draw(self) -> Draw:
        """The next question's turn."""
        return self._again.popleft() if self._again else self.order.take()

    async def _prompt(self, draw: Draw, issue: int = 0) -> Prompt | Unusable:
        """The prompt of a question's turn; `issue` tells how often its group was lost."""
        example, silent = self.questions.train[draw.index], self.config.data.silent
        return await self.asker.prompt(example, group_name(draw), draw.epoch, issue, silent=silent)

    def _prefetch(self, needed: int) -> None:
        """Have the clips of up to a step's questions prepared that are drawn next.

        Args:
            needed: questions that the rest of the run will draw.
        """
        if self.config.data.silent:
            return
        self._prefetched = max(self._prefetched, self.order.position)
        while self._prefetched < self.order.position + min(self.config.algorithm.prompts_per_step, needed):
            draw = self.order.at(self._prefetched)
            self.workers.audio.prefetch(self.questions.train[draw.index].clip)
            self._prefetched += 1

    def _count_drop(self, draw: Draw, reason: str, detail: str, group: Any = None) -> None:
        """A question is dropped: for the ledger, the rollout log, and the first of a reason for the user."""
        self.ledger.drop(group_name(draw), reason)
        held = sum(drop.group is not None for drop in self._dropped.values())
        if held >= self.config.algorithm.prompts_per_step:
            group = None  # groups hold what they heard, and there may be any number between two steps
        self._note_drop(draw, f"{reason}: {detail}", group)
        if self.ledger.dropped[reason] == 1:
            example = self.questions.train[draw.index]
            self.reporter.say(f"dropped {example.id} ({reason}): {detail} [further ones are counted in metrics.jsonl]")

    def _note_drop(self, draw: Draw, why: str, group: Any = None) -> None:
        example = as_asked(self.config, self.questions.train[draw.index], draw.epoch)
        self._dropped[draw] = Dropped(group_name(draw), example, why, group)

    def _skip(self, draws: Iterable[tuple[Draw, Any]], result: UpdateResult | LessonResult) -> None:
        """The learner has taken no step, since its loss or gradient was not finite.

        Args:
            draws: of its questions, each with a reference to its group where there is one.
            result: what the learner made of them.
        """
        why = f"a loss of {result.loss:.3g} and a gradient of norm {result.grad_norm:.3g}"
        self.reporter.say(f"step {self.version + 1} is skipped, and its questions are dropped, for {why}")
        for draw, group in draws:
            self._count_drop(draw, "not_finite", why, group)
        self.ledger.check()
        self._steps_skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > self.config.learner.max_skipped_steps:
            raise NotFinite(self._skipped_in_a_row, why)

    def _counts(self) -> dict[str, Any]:
        """The ledger's, for a line."""
        self.ledger.check()
        return self.ledger.counts() | {"dropped_by_reason": dict(self.ledger.dropped)}

    async def _validation(self) -> float | None:
        """Greedy accuracy of the newest weights on the validation questions, where that is due."""
        if not self.questions.validation or not self._due(self.config.evaluate.every_steps):
            return None
        questions = self.questions.validation[: self.config.evaluate.questions]
        result = await self._evaluate(f"validation_step_{self.version}", questions, samples=0)
        return float(result["accuracy"])

    async def _evaluate(
        self, name: str, examples: tuple[Example, ...], samples: int, silent: bool = False, bad_rows: int = 0
    ) -> dict[str, Any]:
        await self._engines_are_current()
        with self.reporter.questions(name, len(examples)) as advance:

            def answered() -> None:
                advance()
                self.metrics.progress()

            answers = await ask_all(self.asker, self.workers.rollout, examples, samples, silent, answered)
        result = {"step": self.version, **score(answers, self.config.data.prompt.form, bad_rows)}
        self.run_directory.write_evaluation(name, result)
        await self._saving.publish()
        self._loggers.evaluation(name, result)
        self.reporter.say(f"{name}: accuracy {result['accuracy']:.1%} on {result['questions']} questions")
        return result

    def _due(self, every: int) -> bool:
        return every > 0 and self.version % every == 0
