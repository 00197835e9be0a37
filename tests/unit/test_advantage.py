"""Advantages, against each paper's formula written again."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantage import advantages, batch_standardised, centred, leave_one_out, standardised

REWARDS = [2.0, 1.0, 0.0, 1.0]


def test_grpos_advantage_is_the_papers_formula_in_float64() -> None:
    mean = sum(REWARDS) / 4
    deviation = math.sqrt(sum((r - mean) ** 2 for r in REWARDS) / 3)
    assert standardised(REWARDS) == pytest.approx([(r - mean) / (deviation + 1e-4) for r in REWARDS], abs=1e-12)


def test_dr_grpos_advantage_is_not_divided_by_the_deviation() -> None:
    assert centred(REWARDS) == pytest.approx([1.0, 0.0, -1.0, 0.0])


def test_rloos_baseline_is_the_mean_of_the_others() -> None:
    rewards = [2.0, 1.0, 0.0, 4.0]
    others = [np.mean(rewards[:place] + rewards[place + 1 :]) for place in range(4)]
    assert leave_one_out(rewards) == pytest.approx(np.subtract(rewards, others))


def test_reinforce_plus_plus_divides_by_the_deviation_of_the_whole_step() -> None:
    groups = [[2.0, 1.0, 0.0], [5.0, 5.0], [1.0, None, 0.0]]
    apart = [1.0, 0.0, -1.0, 0.0, 0.0, 0.5, -0.5]
    deviation = np.std(apart, ddof=1) + 1e-4
    found = batch_standardised(groups)
    assert found[2][1] is None
    kept = [value for values in found for value in values if value is not None]
    assert kept == pytest.approx(np.divide(apart, deviation))


@pytest.mark.parametrize("kind", ["standardised", "centred", "leave_one_out", "batch_standardised"])
class TestEveryKind:
    def test_a_group_without_variance_has_advantages_of_exactly_zero(self, kind: str) -> None:
        assert of(kind, [0.1, 0.1, 0.1], [1.0, 0.0])[0] == (0.0, 0.0, 0.0)
        assert of(kind, [0.1, 0.1, 0.1]) == ((0.0, 0.0, 0.0),)

    def test_a_dropped_completion_takes_no_part_in_the_statistics(self, kind: str) -> None:
        [with_drop] = of(kind, [1.0, None, 0.0])
        assert with_drop[1] is None
        assert (with_drop[0], with_drop[2]) == of(kind, [1.0, 0.0])[0]

    def test_one_completion_left_has_no_advantage(self, kind: str) -> None:
        assert of(kind, [None, 3.0], [1.0, 0.0])[0] == (None, None)

    @given(groups=st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=8), min_size=1, max_size=4))
    def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_the_rewards(
        self, kind: str, groups: list[list[float]]
    ) -> None:
        for rewards, found in zip(groups, of(kind, *groups), strict=True):
            values = [value for value in found if value is not None]
            assert math.fsum(values) == pytest.approx(0.0, abs=1e-5)
            by_reward = [value for _, value in sorted(zip(rewards, values, strict=True))]
            assert by_reward == sorted(values)


def of(kind: str, *groups: Sequence[float | None]) -> tuple[tuple[float | None, ...], ...]:
    return advantages(groups, kind)  # type: ignore[arg-type]
