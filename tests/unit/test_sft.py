import numpy as np
import pytest
import torch

from learner.packing import Sequences, pack, with_prompt_targets
from learner.sft import loss_weights


def test_the_answers_tokens_alone_are_in_the_loss_without_a_prompt_weight() -> None:
    weights = loss_weights(torch.tensor([0, 0, 1, -1]), answer_tokens=3, prompt_tokens=1, prompt_weight=0.0)
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


def test_the_prompt_weight_is_that_of_the_mean_over_prompt_tokens() -> None:
    weights = loss_weights(torch.tensor([0, -1, -1]), answer_tokens=1, prompt_tokens=2, prompt_weight=0.3)
    assert weights.tolist() == pytest.approx([1.0, 0.15, 0.15])


def test_prompt_targets_are_the_next_tokens_of_each_prompt_and_never_the_placeholder() -> None:
    groups = [Sequences([1, 0, 0, 2, 3], [[4, 5]]), Sequences([6, 7], [[8]])]
    packed = with_prompt_targets(pack(groups), skipped_id=0)
    added = packed.owners < 0
    pairs = np.stack([packed.token_ids[packed.sources[added]], packed.targets[added]], 1).tolist()
    assert pairs == [[0, 2], [2, 3], [6, 7]]
    assert (~added).sum() == 3
