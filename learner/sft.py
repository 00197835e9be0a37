"""Supervised fine-tuning through the same policy, packing and engine: the answer's tokens alone are in the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from configs.schema import Learner
from data.types import ClipFeatures, Group, Lesson
from learner.clock import PhaseClock
from learner.engine import Engine
from learner.micro_batches import shares
from learner.packing import Sequences, pack, plan_micro_batches, with_prompt_targets
from learner.policy import MicroBatch, Policy
from learner.result import LessonResult
from learner.schedule import learning_rate
from learner.sums import Sums

Fetch = Callable[[Lesson], ClipFeatures]
"""Gives the features of a lesson's clip; called on the rank that computes it only."""


@dataclass(frozen=True, slots=True)
class SupervisedUpdate:
    """Takes optimizer steps on lessons. Every rank is given all lessons of a step.

    Args:
        engine: its policy is trained.
        settings: learning rate, schedule and `micro_batch_tokens`.
        max_steps: at which the schedule ends.
        prompt_weight: weight of predicting the prompt's own text; it teaches a model without pretraining to copy. For
            one rank.
    """

    engine: Engine
    settings: Learner
    max_steps: int
    prompt_weight: float = 0.0

    def __call__(self, lessons: Sequence[Lesson], fetch: Fetch, step: int) -> LessonResult:
        """Take the step after `step` others."""
        clock = PhaseClock(self.engine.device)
        sums = Sums(("loss", "packed"), (), self.engine.device)
        sequences = dict(enumerate(sequences_of(lessons, self.engine.policy.audio_token_id)))
        answers, prompts = self._counts(sequences)
        parts = shares(
            sequences,
            lambda index: lessons[index].prompt.clip.sha256,
            lambda index: fetch(lessons[index]),
            self.settings.micro_batch_tokens,
        )
        for share in parts:
            batch = self._with_prompts(share.batch)
            clock("pack")
            logprobs, _ = self.engine.forward(batch, "none")  # (N,)
            owners = torch.from_numpy(batch.packed.owners).to(logprobs.device)  # (N,)
            weights = loss_weights(owners, answers, prompts, self.prompt_weight) * share.planned
            loss = -(weights * logprobs).sum()
            clock("forward")
            self.engine.backward(loss)
            sums.add({"loss": loss, "packed": len(batch.packed.token_ids) * share.planned})
            clock("backward")
        rate = learning_rate(step, self.max_steps, self.settings)
        norm = self.engine.step(rate)
        clock("optimizer")
        rank_tokens, totals = int(sums["packed"]), sums.over_ranks()
        packed = int(totals["packed"])
        updates = int(math.isfinite(norm))
        return LessonResult(totals["loss"], norm, rate, updates, answers, packed, rank_tokens, clock.seconds)

    def _counts(self, sequences: Mapping[int, Sequences]) -> tuple[int, int]:
        """Answer tokens of the step, and predicted prompt tokens."""
        answers = sum(one.targets for one in sequences.values())
        if not self.prompt_weight:
            return answers, 0
        audio = self.engine.policy.audio_token_id
        return answers, sum(token != audio for one in sequences.values() for token in one.prompt[1:])

    def _with_prompts(self, batch: MicroBatch) -> MicroBatch:
        if not self.prompt_weight:
            return batch
        return replace(batch, packed=with_prompt_targets(batch.packed, self.engine.policy.audio_token_id))


def sequences_of(lessons: Sequence[Lesson], audio_token_id: int) -> list[Sequences]:
    """Each lesson's token ids, with its clip expanded."""
    return [Sequences.of(lesson.prompt, [lesson.answer], audio_token_id) for lesson in lessons]


def loss_weights(owners: Tensor, answer_tokens: int, prompt_tokens: int, prompt_weight: float) -> Tensor:
    """Weight of each predicted token (N,): a mean over the step's answers, plus a share of one over its prompts.

    Args:
        owners: completion of each token, -1 for a token of a prompt, (N,).
        answer_tokens: answer tokens of the whole step.
        prompt_tokens: predicted prompt tokens of the whole step.
        prompt_weight: weight of the prompts' mean; 0 leaves the assistant's tokens alone in the loss.
    """
    answer, prompt = torch.tensor(1 / answer_tokens), torch.tensor(prompt_weight / max(prompt_tokens, 1))
    return torch.where(owners >= 0, answer.to(owners.device), prompt.to(owners.device))


def features_of(asked: Lesson | Group) -> ClipFeatures:
    """The features of the clip, where the lesson or group holds them itself."""
    features: ClipFeatures = asked.prompt.clip.features
    return features


def greedy_accuracy(policy: Policy, lessons: Sequence[Lesson], micro_batch_tokens: int) -> float:
    """Share of questions whose whole answer greedy decoding would give."""
    groups = sequences_of(lessons, policy.audio_token_id)
    (plan,) = plan_micro_batches([group.packed_tokens for group in groups], 1, micro_batch_tokens)
    right = 0
    for members in plan:
        packed = pack([groups[index] for index in members])
        hits = policy.most_likely(MicroBatch(packed, [features_of(lessons[index]) for index in members]))
        misses = torch.from_numpy(packed.owners)[~hits]
        right += len(members) - len(set(misses.tolist()))
    return right / len(lessons)
