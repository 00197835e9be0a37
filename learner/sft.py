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
from learner.packing import Sequences, pack, plan_micro_batches, with_prompt_targets
from learner.policy import MicroBatch, Policy
from learner.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with its answer, as token ids; the audio placeholder of the prompt is expanded."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    clip: ClipFeatures


def loss_weights(owners: Tensor, answer_tokens: int, prompt_tokens: int, prompt_weight: float) -> Tensor:
    """Weight of each predicted token (N,): a mean over the batch's answers, plus a share of one over its prompts.

    Args:
        owners: completion of each token, -1 for a token of a prompt, (N,).
        answer_tokens: answer tokens of the whole batch.
        prompt_tokens: predicted prompt tokens of the whole batch.
        prompt_weight: weight of the prompts' mean; 0 leaves the assistant's tokens alone in the loss.
    """
    answer, prompt = torch.tensor(1 / answer_tokens), torch.tensor(prompt_weight / max(prompt_tokens, 1))
    return torch.where(owners >= 0, answer, prompt)


def fine_tune(
    engine: Engine,
    lessons: Sequence[Lesson],
    steps: int,
    batch_size: int,
    settings: Learner,
    seed: int,
    prompt_weight: float = 0.0,
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
        prompt_weight: weight of predicting the prompt's own text; it teaches a model without pretraining to copy.
        advance: called with the step (from 1) and its loss.
    """
    order = DataOrder(len(lessons), seed)
    losses: list[float] = []
    for step in range(steps):
        batch = [lessons[order.take().index] for _ in range(batch_size)]
        groups = [Sequences(lesson.prompt, [lesson.answer]) for lesson in batch]
        (plan,) = plan_micro_batches([group.packed_tokens for group in groups], 1, settings.micro_batch_tokens)
        packs = [pack([groups[index] for index in members]) for members in plan]
        if prompt_weight:
            packs = [with_prompt_targets(packed, engine.policy.audio_token_id) for packed in packs]
        answer_tokens = sum(len(lesson.answer) for lesson in batch)
        prompt_tokens = sum(int((packed.owners < 0).sum()) for packed in packs)
        total = 0.0
        for packed, members in zip(packs, plan, strict=True):
            logprobs, _ = engine.forward(MicroBatch(packed, [batch[index].clip for index in members]))
            weights = loss_weights(torch.from_numpy(packed.owners), answer_tokens, prompt_tokens, prompt_weight)
            loss = -(weights * logprobs).sum()
            engine.backward(loss)
            total += loss.item()
        engine.step(learning_rate(step, steps, settings))
        losses.append(total)
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
