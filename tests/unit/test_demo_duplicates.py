"""Near-duplicates are found by correlation, and a split that parts them is refused."""

from __future__ import annotations

import numpy as np
import pytest

from data.demo.duplicates import Pair, clusters, correlation, find_pairs
from data.demo.recordings import Recording, Waveform
from data.demo.split import LeakError, assign, check_split
from tests.unit.demo_recordings import noise_burst, recording


def altered(waveform: Waveform) -> Waveform:
    """The same sound 0.1 s later, with noise, at half the level."""
    noise = np.random.default_rng(7).normal(0, 0.02, len(waveform) + 1600).astype(np.float32)
    return (0.5 * (np.pad(waveform, (1600, 0)) + noise)).astype(np.float32)


def three() -> list[Recording]:
    first = noise_burst(1)
    waveforms = {"a.wav": first, "b.wav": noise_burst(2), "c.ogg": altered(first)}
    return [recording(path, {"animal": "dog"}, waveform=waveform) for path, waveform in waveforms.items()]


def test_a_shifted_noisy_copy_is_found_and_another_sound_is_not() -> None:
    pairs = find_pairs(three())
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2)]
    assert pairs[0].correlation > 0.9


def test_correlation_is_one_for_equal_clips_and_small_for_unrelated_ones() -> None:
    assert correlation(noise_burst(1), noise_burst(1)) == pytest.approx(1, abs=1e-4)
    assert correlation(noise_burst(1), noise_burst(2)) < 0.3


def test_clusters_join_through_others_and_by_prompt() -> None:
    prompts = ["", "", "", "voice/yes", "voice/yes", "voice/no"]
    found = [recording(str(index), {"language": "French"}, prompt=prompt) for index, prompt in enumerate(prompts)]
    assert clusters(found, [Pair(0, 1, 0.9), Pair(1, 2, 0.8)]) == [0, 0, 0, 3, 3, 5]


def test_a_near_duplicate_on_two_sides_is_caught_with_both_names() -> None:
    found = three()
    with pytest.raises(LeakError, match=r"a\.wav \(train\) and pack:c\.ogg \(test\) are near-duplicates"):
        check_split(found, ["train", "train", "test"], find_pairs(found))
    check_split(found, ["train", "test", "train"], find_pairs(found))


@pytest.mark.parametrize("mark", ["key", "waveform", "prompt"])
def test_one_recording_on_two_sides_is_caught(mark: str) -> None:
    one = recording("a.wav", {"language": "French"}, prompt="voice/yes")
    other = recording(
        "a.wav" if mark == "key" else "b.wav",
        {"language": "French"},
        waveform=one.waveform if mark == "waveform" else noise_burst(5),
        prompt="voice/yes" if mark == "prompt" else "voice/no",
    )
    with pytest.raises(LeakError, match="the same recording"):
        check_split([one, other], ["train", "test"], [])


def test_every_label_with_enough_recordings_is_on_every_side_and_clusters_stay_whole() -> None:
    found = [recording(f"{animal}{index}", {"animal": animal}) for animal in ("cat", "cow") for index in range(20)]
    cluster = [index - index % 2 for index in range(40)]
    sides = assign(found, cluster, seed=0)
    assert sides[0::2] == sides[1::2]
    assert {(side, item.labels["animal"]) for side, item in zip(sides, found, strict=True)} == {
        (side, animal) for side in ("train", "validation", "test") for animal in ("cat", "cow")
    }
    assert assign(found, cluster, seed=1) != sides
