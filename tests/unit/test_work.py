"""A step's work in numbers is that of its packed groups: tokens, micro-batches and counted operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import bound
from configs.schema import Config
from data.types import ClipFeatures
from learner.hf import load_model
from learner.packing import Sequences, pack, plan_micro_batches
from learner.policy import MicroBatch, Policy
from learner.sizes import find_sizes
from learner.work import Lengths, Work, forward_operations, work_of

LENGTHS = Lengths(clip_seconds=2.0, text_tokens=20, completion_tokens=12)


def sequences(work: Work, audio_token_id: int = 0) -> Sequences:
    prompt = [5] * work.lengths.text_tokens + [audio_token_id] * (work.lengths.prompt_tokens - work.lengths.text_tokens)
    return Sequences(prompt, [[7] * work.lengths.completion_tokens] * work.group_size)


def test_a_clip_takes_25_positions_a_second() -> None:
    assert Lengths(30, 100, 1).prompt_tokens == 850
    assert Lengths(10, 80, 1).prompt_tokens == 330


@pytest.mark.parametrize(("groups", "ranks", "budget"), [(8, 1, 500), (7, 2, 500), (4, 4, 100_000), (9, 2, 1)])
def test_the_largest_rank_and_micro_batch_are_those_of_the_plan(groups: int, ranks: int, budget: int) -> None:
    work = Work(LENGTHS, groups, 4, ranks, budget)
    packed = pack([sequences(work)] * work.groups_of_a_micro_batch)
    assert (work.tokens, work.targets) == (len(packed.token_ids), len(packed.targets))
    plan = plan_micro_batches([work.group_tokens] * groups, ranks, budget)
    assert work.groups_of_a_rank == max(sum(map(len, parts)) for parts in plan)
    assert work.groups_of_a_micro_batch == max(len(members) for parts in plan for members in parts)
    assert work.micro_batches == len(plan[0])


def test_a_lesson_of_supervised_fine_tuning_has_one_answer() -> None:
    told = {"model": {"path": "m"}, "data": {"train": "t"}, "algorithm": {"name": "sft"}}
    assert work_of(Config.model_validate(told), LENGTHS).group_size == 1


def test_operations_of_a_forward_are_those_that_torch_counts(model: Path) -> None:
    sizes = find_sizes(str(model))
    policy = Policy(load_model(str(model), torch.float32), 1.0)
    work = Work(LENGTHS, 1, 3, 1, 1)
    mel = torch.zeros(sizes.tower.mel_bins, LENGTHS.frames + 8).numpy()
    clip = ClipFeatures(mel=mel, valid_frames=LENGTHS.frames)
    batch = MicroBatch(pack([sequences(work, policy.audio_token_id)]), [clip], work.targets)
    counted = bound.counted(lambda: policy(batch, "none"))
    assert forward_operations(sizes, LENGTHS, 3, with_tower=True) == pytest.approx(counted, rel=0.01)
    pooled = ClipFeatures(pooled=torch.zeros(LENGTHS.prompt_tokens - LENGTHS.text_tokens, sizes.tower.width).numpy())
    batch = MicroBatch(batch.packed, [pooled], work.targets)
    counted = bound.counted(lambda: policy(batch, "none"))
    assert forward_operations(sizes, LENGTHS, 3, with_tower=False) == pytest.approx(counted, rel=0.01)
