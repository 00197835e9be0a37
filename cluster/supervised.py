"""Supervised fine-tuning as a run: draws questions, has the learner take steps on their gold answers.

The loop, the learner, its packing and its checkpoints are those of every run. Engines answer the held-out and the
validation questions, and are given the weights when they are asked; without such questions there are none.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from cluster.asking import Unusable
from cluster.errors import tasks
from cluster.training_loop import NothingToTrain, TrainingLoop, group_name
from data.order import Draw
from data.types import Lesson
from learner.result import LessonResult


class SupervisedLoop(TrainingLoop):
    """Training on the questions' own answers."""

    async def _step(self) -> dict[str, Any]:
        started = time.perf_counter()
        draws, lessons, encoded, result = await self._taught()
        self.ledger.train(group_name(draw) for draw in draws)
        self.version += 1
        self.run_directory.append_dropped(
            self.version, [(drop.example.id, drop.why) for drop in self._dropped.values()]
        )
        self._dropped = {}
        ended, ended_at = time.perf_counter(), time.time()
        learner_seconds = sum(result.seconds.values())
        seconds = {"encode": encoded - started, **result.seconds, "wait": ended - encoded - learner_seconds}
        return {
            "step": self.version,
            "time": ended_at,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "questions": len(lessons),
            "answer_tokens": result.answer_tokens,
            "packed_tokens": result.packed_tokens,
            "tokens_per_second": result.answer_tokens / (ended - started),
            "step_seconds": ended - started,
            "seconds": seconds,
            "learner_busy": learner_seconds / (ended - started),
            **self._counts(),
            "validation_accuracy": await self._validation(),
        }

    async def _taught(self) -> tuple[list[Draw], list[Lesson], float, LessonResult]:
        """The questions of the next step, when they were prepared, and what the learner made of them.

        Questions from which it could not learn are dropped, and others take their place.
        """
        while True:
            draws, lessons = await self._lessons()
            encoded = time.perf_counter()
            result = await self.workers.learner.teach(lessons, self.version)
            if not result.skipped:
                return draws, lessons, encoded, result
            self._skip([(draw, None) for draw in draws], result)

    async def _lessons(self) -> tuple[list[Draw], list[Lesson]]:
        """The next step's questions, with their answers; one that cannot be used is dropped, and another is drawn."""
        wanted = self.config.algorithm.prompts_per_step
        draws: list[Draw] = []
        lessons: list[Lesson] = []
        fruitless: Counter[str] = Counter()
        while len(lessons) < wanted:
            fresh = [self._next_draw() for _ in range(wanted - len(lessons))]
            for draw in fresh:
                self.ledger.admit(group_name(draw))
            self._prefetch(wanted * (self.config.run.max_steps - self.version - 1))
            prompts = await asyncio.gather(*map(self._prompt, fresh))
            for draw, prompt in zip(fresh, prompts, strict=True):
                if isinstance(prompt, Unusable):
                    self._count_drop(draw, prompt.reason, prompt.detail)
                    fruitless[prompt.reason] += 1
                else:
                    draws.append(draw)
                    lessons.append(Lesson(prompt, self.asker.encoder.answer(prompt.example)))
                    fruitless.clear()
            if fruitless.total() >= self.order.count:
                raise NothingToTrain(fruitless, next(reversed(self._dropped.values())).why)
        return draws, lessons

    async def _engines_are_current(self) -> None:
        if self.workers.rollout.version < self.version:
            async with tasks() as group:
                await self._delivery.publish(self.version, group)
