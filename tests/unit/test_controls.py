from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.controls import other_recordings, shuffle_choices
from data.types import ClipSource, Example


def example(name: str) -> Example:
    return Example(name, ClipSource(f"{name}.wav"), "What is heard?", ("dog", "cat", "drum", "bell"), "dog")


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(0, 5))
def test_every_clip_goes_once_to_a_question_about_another_recording(recordings: list[str], seed: int) -> None:
    if 2 * max(Counter(recordings).values()) > len(recordings):
        with pytest.raises(ValueError, match="more than half"):
            other_recordings(recordings, seed)
        return
    given_by = other_recordings(recordings, seed)
    assert sorted(given_by) == list(range(len(recordings)))
    assert all(recordings[number] != recordings[giver] for number, giver in enumerate(given_by))


def test_the_seed_decides_which_clip_a_question_gets() -> None:
    recordings = [str(number // 2) for number in range(40)]
    assert other_recordings(recordings, 3) == other_recordings(recordings, 3)
    assert other_recordings(recordings, 3) != other_recordings(recordings, 4)
    assert other_recordings([], 3) == []


def test_clips_do_not_go_to_the_next_row_of_the_file() -> None:
    given_by = other_recordings([str(number) for number in range(100)], 0)
    assert sum(giver == (number + 1) % 100 for number, giver in enumerate(given_by)) < 10


def test_shuffled_choices_are_the_same_choices_in_an_order_that_seed_and_id_decide() -> None:
    orders = {shuffle_choices(example(str(number)), 0).choices for number in range(200)}
    assert len(orders) == 24
    assert all(sorted(order) == sorted(example("a").choices) for order in orders)
    one = shuffle_choices(example("a"), 0)
    assert one == shuffle_choices(example("a"), 0)
    assert one.answer == "dog"
    assert {shuffle_choices(example("a"), seed).choices for seed in range(20)} > {one.choices}


def test_an_answer_that_stands_first_is_spread_evenly_by_shuffling() -> None:
    places = Counter(shuffle_choices(example(str(number)), 0).choices.index("dog") for number in range(4000))
    assert all(900 < places[place] < 1100 for place in range(4))
