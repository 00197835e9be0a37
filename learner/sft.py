"""Supervised fine-tuning through the same policy, packing and engine: the answer's tokens alone are in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import Learner
from data.order import DataOrder
from data.types import ClipFeatures
from learner.engine import Engine
from learner.packing import Sequences, pack, plan_micro_batches
from learner.policy import MicroBatch, Policy
from learner.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with its answer, as token ids; the audio placeholder of the prompt is expanded."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    clip: ClipFeatures


def negative_log_likelihood(logprobs: Tensor, answer_tokens: int) -> Tensor:
    """Share of a micro-batch in the mean over all answer tokens of the batch; logprobs (N,)."""
    return -logprobs.sum() / answer_tokens


def fine_tune(
    engine: Engine,
    lessons: Sequence[Lesson],
    steps: int,
    batch_size: int,
    settings: Learner,
    seed: int,
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Take `steps` optimizer steps on batches drawn epoch by epoch; returns the mean loss of the last tenth.

    Args:
        engine: one rank; its policy is trained.
        lessons: questions with their answers.
        steps: optimizer steps; the learning-rate schedule ends with them.
        batch_size: questions of a step.
        settings: learning rate, schedule and `micro_batch_tokens`.
        seed: of the order.
        advance: called with the step (from 1) and its loss.
    """
    order = DataOrder(len(lessons), seed)
    losses: list[float] = []
    for step in range(steps):
        batch = [lessons[order.take().index] for _ in range(batch_size)]
        groups = [Sequences(lesson.prompt, [lesson.answer]) for lesson in batch]
        tokens = sum(len(lesson.answer) for lesson in batch)
        (plan,) = plan_micro_batches([group.packed_tokens for group in groups], 1, settings.micro_batch_tokens)
        total = torch.zeros(())
        for members in plan:
            packed = pack([groups[index] for index in members])
            logprobs, _ = engine.forward(MicroBatch(packed, [batch[index].clip for index in members]))
            loss = negative_log_likelihood(logprobs, tokens)
            engine.backward(loss)
            total += loss.detach()
        engine.step(learning_rate(step, steps, settings))
        losses.append(total.item())
        advance(step + 1, losses[-1])
    tail = losses[-max(steps // 10, 1) :]
    return sum(tail) / len(tail)


def greedy_accuracy(policy: Policy, lessons: Sequence[Lesson], micro_batch_tokens: int) -> float:
    """Share of questions whose whole answer greedy decoding would give."""
    groups = [Sequences(lesson.prompt, [lesson.answer]) for lesson in lessons]
    (plan,) = plan_micro_batches([group.packed_tokens for group in groups], 1, micro_batch_tokens)
    right = 0
    for members in plan:
        packed = pack([groups[index] for index in members])
        hits = policy.most_likely(MicroBatch(packed, [lessons[index].clip for index in members]))
        misses = torch.from_numpy(packed.owners)[~hits]
        right += len(members) - len(set(misses.tolist()))
    return right / len(lessons)
