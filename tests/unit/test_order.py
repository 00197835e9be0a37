from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.order import DataOrder, hash_seed, shuffle_choices, spaced
from data.types import ClipSource, Example


@given(st.integers(1, 20), st.integers(0, 3), st.integers(0, 60))
def test_a_resume_at_any_position_draws_what_was_left(count: int, seed: int, position: int) -> None:
    whole = DataOrder(count, seed)
    drawn = [whole.take() for _ in range(position + 10)]
    resumed = DataOrder(count, seed, position)
    assert [resumed.take() for _ in range(10)] == drawn[position:]


@given(st.integers(1, 30))
def test_each_epoch_asks_every_question_once(count: int) -> None:
    order = DataOrder(count, seed=1)
    for epoch in range(3):
        draws = [order.take() for _ in range(count)]
        assert {draw.epoch for draw in draws} == {epoch}
        assert sorted(draw.index for draw in draws) == list(range(count))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = []
    for seed in (0, 1):
        order = DataOrder(50, seed)
        orders += [[order.take().index for _ in range(50)] for _ in range(2)]
    assert len({tuple(indices) for indices in orders}) == 4


def test_looking_ahead_leaves_the_order_in_place() -> None:
    order = DataOrder(5, seed=0)
    ahead = [order.at(position) for position in range(23)]
    assert [order.take() for _ in range(23)] == ahead


def test_request_seeds_of_neighbours_are_far_apart_and_fit_63_bits() -> None:
    seeds = sorted(hash_seed(0, 0, f"q{number}", 0) for number in range(1000))
    assert seeds[-1] < 2**63
    assert min(b - a for a, b in pairwise(seeds)) > 64


@given(st.lists(st.text(), min_size=2, max_size=6), st.integers(0, 2**63 - 1))
def test_shuffled_choices_are_the_same_ones_and_the_seed_alone_orders_them(choices: list[str], seed: int) -> None:
    example = Example("1", ClipSource("a.wav"), "?", tuple(choices), choices[0])
    shuffled = shuffle_choices(example, seed)
    assert sorted(shuffled.choices) == sorted(choices)
    assert replace(shuffled, choices=example.choices) == example
    assert shuffle_choices(example, seed) == shuffled


def test_the_gold_choice_comes_to_stand_in_every_place_about_as_often() -> None:
    example = Example("1", ClipSource("a.wav"), "?", ("a", "b", "c", "d"), "a")
    places = Counter(
        shuffle_choices(example, hash_seed(0, "choices", epoch, "1")).choices.index("a") for epoch in range(400)
    )
    assert all(70 < places[place] < 130 for place in range(4))


@pytest.mark.parametrize(("count", "taken"), [(None, "abcde"), (9, "abcde"), (5, "abcde"), (2, "ac"), (1, "a")])
def test_some_of_many_are_evenly_spaced_in_their_order(count: int | None, taken: str) -> None:
    assert "".join(spaced("abcde", count)) == taken
