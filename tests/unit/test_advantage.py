import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantage import grpo


def test_advantage_is_the_papers_formula_in_float64() -> None:
    rewards = [2.0, 1.0, 0.0, 1.0]
    mean = sum(rewards) / 4
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
    assert grpo(rewards) == pytest.approx([(r - mean) / (deviation + 1e-4) for r in rewards], abs=1e-12)


def test_a_group_without_variance_has_advantages_of_exactly_zero() -> None:
    assert grpo([0.1, 0.1, 0.1]) == (0.0, 0.0, 0.0)


def test_a_dropped_completion_takes_no_part_in_the_statistics() -> None:
    with_drop = grpo([1.0, None, 0.0])
    assert with_drop[1] is None
    assert (with_drop[0], with_drop[2]) == grpo([1.0, 0.0])


def test_one_completion_left_has_no_advantage() -> None:
    assert grpo([None, 3.0]) == (None, None)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_sum_to_zero(rewards: list[float]) -> None:
    values = [value for value in grpo(rewards) if value is not None]
    assert math.fsum(values) == pytest.approx(0.0, abs=1e-9 * len(values) * 1e4)
