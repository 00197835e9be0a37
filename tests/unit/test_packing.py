import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.packing import Sequences, attention_allowed, pack, plan_micro_batches

TWO_GROUPS = [Sequences([1, 2, 3], [[4, 5], [6, 7, 8]]), Sequences([9], [[10, 11], []])]


def test_every_completion_sees_the_prompt_and_itself_alone() -> None:
    packed = pack(TWO_GROUPS)
    allowed = attention_allowed(packed)
    sees = {index: packed.token_ids[row].tolist() for index, row in enumerate(allowed)}
    # positions: 1 2 3 | 4 | 6 7 || 9 | 10
    assert packed.token_ids.tolist() == [1, 2, 3, 4, 6, 7, 9, 10]
    assert sees[2] == [1, 2, 3]
    assert sees[3] == [1, 2, 3, 4]
    assert sees[5] == [1, 2, 3, 6, 7]
    assert sees[7] == [9, 10]


def test_positions_go_on_after_the_prompt_in_every_completion() -> None:
    assert pack(TWO_GROUPS).positions.tolist() == [0, 1, 2, 3, 3, 4, 0, 1]


def test_each_target_is_predicted_from_the_token_before_it() -> None:
    packed = pack(TWO_GROUPS)
    pairs = list(zip(packed.token_ids[packed.sources].tolist(), packed.targets.tolist(), strict=True))
    assert pairs == [(3, 4), (4, 5), (3, 6), (6, 7), (7, 8), (9, 10), (10, 11)]
    assert packed.owners.tolist() == [0, 0, 1, 1, 1, 2, 2]


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(lengths, st.integers(1, 5), st.integers(1, 100))
def test_every_group_is_planned_once_and_ranks_take_equal_numbers_of_micro_batches(
    tokens: list[int], ranks: int, budget: int
) -> None:
    plan = plan_micro_batches(tokens, ranks, budget)
    assert sorted(index for rank in plan for members in rank for index in members) == list(range(len(tokens)))
    assert len({len(rank) for rank in plan}) == 1
    for rank in plan:
        for members in rank:
            assert len(members) <= 1 or sum(tokens[index] for index in members) <= budget


@given(lengths, st.integers(1, 5))
def test_ranks_differ_by_no_more_than_the_longest_group(tokens: list[int], ranks: int) -> None:
    plan = plan_micro_batches(tokens, ranks, 10**9)
    loads = [sum(tokens[index] for members in rank for index in members) for rank in plan]
    assert max(loads) - min(loads) <= max(tokens)


def test_packed_tokens_counts_the_positions_that_packing_makes() -> None:
    for group in TWO_GROUPS:
        assert group.packed_tokens == len(pack([group]).token_ids)


def test_an_empty_completion_keeps_its_place_in_the_count() -> None:
    packed = pack([Sequences([1], [[], [2]])])
    assert packed.owners.tolist() == [1]
    assert np.asarray(packed.targets).tolist() == [2]


def test_a_group_larger_than_the_budget_stands_alone() -> None:
    assert plan_micro_batches([100, 1], 1, 10) == (((0,), (1,)),)


@pytest.mark.parametrize("ranks", [1, 3])
def test_no_groups_make_an_empty_plan(ranks: int) -> None:
    assert plan_micro_batches([], ranks, 10) == ((),) * ranks
