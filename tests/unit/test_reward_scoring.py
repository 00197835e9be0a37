"""What a reward may give, and what the outcomes of all terms make of a group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.reward import summary_of
from data.types import Clip, ClipSource, Completion, Example, Group, GroupSummary, Prompt
from rewards.overlong import shaped
from rewards.score import Scored, combined
from rewards.terms import Term
from rewards.values import Dropped, InvalidValues, Outcome, checked


def group(*texts: str) -> Group:
    example = Example("row 7", ClipSource("a.wav"), "Which animal?", ("Dog", "Cat"), "Dog")
    prompt = Prompt("g", example, (1, 2), Clip("00", 1.0, 25), seed=1)
    return Group(prompt, tuple(Completion((1,), text, (-0.1,), (0,), "stop") for text in texts))


def scored(*outcomes: tuple[Term, Outcome]) -> Scored:
    terms, given = zip(*outcomes, strict=True)
    return combined(group(*"ab"), terms, given)


def test_numbers_of_numpy_and_booleans_become_floats() -> None:
    values = checked(np.array([True, False]), 2) + checked([np.float32(0.5), 3], 2)
    assert values == (1.0, 0.0, 0.5, 3.0)
    assert all(type(value) is float for value in values)


def test_none_is_a_reason_and_a_reward_may_give_one_of_its_own() -> None:
    assert checked([None, Dropped("too_noisy")], 2) == (Dropped("none"), Dropped("too_noisy"))


@pytest.mark.parametrize("reason", ["", "Too noisy", "x" * 41, "noisy\n"])
def test_a_reason_that_is_no_word_is_refused(reason: str) -> None:
    with pytest.raises(ValueError, match="a reason is a word"):
        Dropped(reason)


class Unshowable:
    def __repr__(self) -> str:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0], "gave 1 values for 2 completions"),
        ([1.0, 1.0, 1.0], "gave 3 values for 2 completions"),
        ([1.0, math.nan], "gave nan; a reward is a finite number or None"),
        ([math.inf, 1.0], "gave inf; a reward is a finite number or None"),
        ([1.0, "2"], "gave '2'; a reward is a finite number or None"),
        ([1.0, 10**400], "a reward is a finite number or None"),
        (None, "gave None; return a list of 2 values, one for each completion"),
        ({"a": 1.0, "b": 1.0}, r"gave {'a': 1.0, 'b': 1.0} \(dict\); return a list of 2 values"),
        ({1.0, 2.0}, r"\(set\); return a list of 2 values"),
        (0.5, r"gave 0.5 \(float\); return a list of 2 values"),
        ("ab", r"gave 'ab' \(str\); return a list of 2 values"),
        ([1.0, "x" * 10_000], r"gave 'x{396}\.\.\.; a reward"),
        ([1.0, Unshowable()], "gave a Unshowable that cannot be shown; a reward"),
    ],
)
def test_values_that_are_none_are_refused(values: Any, problem: str) -> None:
    with pytest.raises(InvalidValues, match=problem):
        checked(values, 2)


def test_the_total_is_the_weighted_sum() -> None:
    found = scored((Term("a", "a", 2.0), Outcome((1.0, 0.5))), (Term("b", "b", -0.5), Outcome((1.0, 2.0))))
    assert found.group.rewards == {"a": (1.0, 0.5), "b": (1.0, 2.0)}
    assert found.group.total == (1.5, 0.0)
    assert (found.dropped, found.problems, found.faulted) == ({}, (), ())


def test_a_completion_without_a_value_has_no_total_and_the_first_reason_counts() -> None:
    found = scored(
        (Term("a", "a"), Outcome((1.0, Dropped("none")))), (Term("b", "b"), Outcome((1.0, Dropped("unparseable"))))
    )
    assert found.group.rewards == {"a": (1.0, None), "b": (1.0, None)}
    assert found.group.total == (2.0, None)
    assert found.dropped == {"reward_none": 1}
    assert found.problems == (
        "reward a, example row 7: no value for 1 of 2 completions (none 1)",
        "reward b, example row 7: no value for 1 of 2 completions (unparseable 1)",
    )


def test_a_reward_that_failed_costs_the_group_its_score_and_is_counted_and_told() -> None:
    failed = Outcome.failed("raised", 2, "raised KeyError('x') at mine.py:3")
    found = scored((Term("good", "good"), Outcome((1.0, 1.0), seconds=0.1)), (Term("mine", "m:f"), failed))
    assert found.group.rewards == {"good": (1.0, 1.0), "mine": (None, None)}
    assert found.group.total == (None, None)
    assert found.dropped == {"reward_raised": 2}
    assert found.faulted == ("mine",)
    assert found.problems == ("reward mine, example row 7: raised KeyError('x') at mine.py:3",)
    assert found.seconds == 0.1


def test_a_reward_without_weight_is_logged_and_drops_nothing_whatever_it_gives() -> None:
    for seen in (Outcome((0.5, Dropped("none"))), Outcome.failed("died", 2, "it died")):
        found = scored((Term("good", "good"), Outcome((1.0, 2.0))), (Term("seen", "seen", 0.0), seen))
        assert found.group.total == (1.0, 2.0)
        assert (found.dropped, found.faulted) == ({}, ())
        assert found.group.rewards["seen"][1] is None
        assert found.problems[0].startswith("reward seen, ")


def test_where_no_reward_has_weight_every_total_is_zero() -> None:
    found = scored((Term("seen", "seen", 0.0), Outcome((1.0, Dropped("none")))))
    assert found.group.total == (0.0, 0.0)


def test_what_is_behind_the_first_completion_without_a_value_is_told_in_short() -> None:
    outcome = Outcome((Dropped("unparseable", "'I " * 100), Dropped("unparseable", "second")))
    [problem] = scored((Term("j", "judge"), outcome)).problems
    assert "(unparseable 2); unparseable: 'I 'I " in problem
    assert len(problem) < 300


def test_a_reward_that_drops_completions_for_reasons_of_its_own_has_not_failed() -> None:
    assert scored((Term("j", "judge"), Outcome((Dropped("unparseable"),) * 2))).faulted == ()


def test_a_group_is_dropped_for_the_reason_that_most_of_its_completions_have() -> None:
    summary = GroupSummary("g", 1, 8, 0, {}, 0.0, 0, dropped={"reward_none": 1, "reward_unparseable": 2})
    assert summary.drop_reason == "reward_unparseable"


@pytest.mark.parametrize(
    ("rewards", "spread"), [((1.0, 1.0, 1.0), 0.0), ((1.0, 0.0, None), 1.0), ((1.0, 0.5, 0.5), 0.5)]
)
def test_a_groups_spread_is_that_of_its_rewards_before_long_completions_lose_some(
    rewards: tuple[float | None, ...], spread: float
) -> None:
    of = group(*"abc")
    lengths = (1, 9, 10)
    completions = [replace(one, token_ids=(1,) * length) for one, length in zip(of.completions, lengths, strict=True)]
    before = Scored(replace(of, completions=tuple(completions), total=rewards), {}, (), 0.1)
    whole = shaped(before.group, most_tokens=10, share=0.2)
    kept = [total for total in whole.total if total is not None]
    assert len(set(kept)) > 1
    summary = summary_of(before, whole)
    assert summary.spread == spread
    assert summary.total == pytest.approx(sum(kept) / len(kept))
    assert summary.rewards["overlong"] == pytest.approx(-0.5)
