from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluation.controls import other_recordings


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
