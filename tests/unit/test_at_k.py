"""pass@k and majority@k, held against every set of k of the n completions."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.at_k import majority_at_k, pass_at_k, powers_of_two

PREDICTIONS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9)


def over_all_sets(predictions: Sequence[str], k: int, worth: Callable[[tuple[str, ...]], float]) -> float:
    return statistics.mean(worth(chosen) for chosen in itertools.combinations(predictions, k))


def holds_a_right_one(chosen: tuple[str, ...]) -> float:
    return float("a" in chosen)


def votes_right(chosen: tuple[str, ...]) -> float:
    most = max(chosen.count(text) for text in chosen)
    winners = {text for text in chosen if chosen.count(text) == most}
    return 1 / len(winners) if "a" in winners else 0.0


@given(PREDICTIONS, st.data())
def test_pass_at_k_is_the_share_of_all_sets_that_hold_a_right_completion(
    predictions: list[str], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(predictions)))
    expected = over_all_sets(predictions, k, holds_a_right_one)
    assert pass_at_k(len(predictions), predictions.count("a"), k) == pytest.approx(expected, abs=1e-12)


@given(PREDICTIONS, st.data())
def test_majority_at_k_is_the_share_of_all_sets_that_vote_for_the_answer(
    predictions: list[str], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(predictions)))
    expected = over_all_sets(predictions, k, votes_right)
    assert majority_at_k(predictions, "a", k) == pytest.approx(expected, abs=1e-12)


def test_tied_predictions_win_equally_often() -> None:
    assert majority_at_k(["a", "b"], "a", 2) == 0.5
    assert majority_at_k(["a", "b", "c", "a", "b"], "a", 5) == 0.5
    assert majority_at_k(["a", "b", "c"], "a", 3) == pytest.approx(1 / 3)


def test_the_majority_may_be_wrong_where_one_is_right() -> None:
    predictions = ["a", "b", "b", "b"]
    assert pass_at_k(4, 1, 4) == 1.0
    assert majority_at_k(predictions, "a", 4) == 0.0


def test_one_completion_is_worth_the_mean_of_all() -> None:
    predictions = ["a", "b", "a", "c", "d"]
    assert pass_at_k(5, 2, 1) == majority_at_k(predictions, "a", 1) == 0.4


@pytest.mark.heavy
def test_many_completions_are_counted_exactly_where_sets_can_only_be_drawn() -> None:
    predictions = ["a"] * 30 + [str(number % 50) for number in range(98)]
    generator = random.Random(0)
    votes = [votes_right(tuple(generator.sample(predictions, 16))) for _ in range(4000)]
    assert majority_at_k(predictions, "a", 16) == pytest.approx(statistics.mean(votes), abs=0.02)
    assert majority_at_k(predictions, "a", 128) == 1.0


@pytest.mark.parametrize(("most", "powers"), [(0, []), (1, [1]), (3, [1, 2]), (8, [1, 2, 4, 8])])
def test_k_goes_in_powers_of_two_up_to_the_number_of_samples(most: int, powers: list[int]) -> None:
    assert powers_of_two(most) == powers
