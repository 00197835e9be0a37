"""Rewards that fail every group from the first on."""

from __future__ import annotations

import pytest

from rewards.failing import FIRST_GROUPS, Failing


@pytest.mark.parametrize(("prompts_per_step", "groups"), [(1, FIRST_GROUPS), (32, 64)])
def test_a_reward_that_fails_every_one_of_the_first_groups_is_named(prompts_per_step: int, groups: int) -> None:
    failing = Failing(prompts_per_step)
    found = [failing.note(("other", "mine") if group % 2 else ("mine",)) for group in range(2 * groups)]
    assert found == [*(None for _ in range(groups - 1)), "mine", *(None for _ in range(groups))]


@pytest.mark.parametrize("good", [0, 7, FIRST_GROUPS - 1])
def test_a_reward_that_did_not_fail_once_is_not(good: int) -> None:
    failing = Failing(1)
    found = {failing.note(() if group == good else ("mine",)) for group in range(5 * FIRST_GROUPS)}
    assert found == {None}


def test_different_rewards_that_fail_different_groups_are_not() -> None:
    failing = Failing(1)
    assert {failing.note(("ab"[group % 2],)) for group in range(FIRST_GROUPS)} == {None}
