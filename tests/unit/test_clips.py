"""Which clips are held, how often one is asked for, and what is let go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from cluster.clips import AudioPool, HeldClips
from cluster.waiting import WorkerError
from configs.schema import Config
from data.types import Clip, ClipSource

ONE, TWO, THREE = ((ClipSource(f"{number}.wav"), False) for number in (1, 2, 3))
SIZE = 100


class Audio:
    """An audio actor, as far as it is asked; gives the recording's name as its features.

    Args:
        recordings: what each path holds, where it is not a recording of its own.
    """

    def __init__(self, recordings: dict[str, str] | None = None) -> None:
        self.asked: Counter[tuple[ClipSource, bool]] = Counter()
        self.recordings = recordings or {}
        self.go = asyncio.Event()
        self.go.set()
        self.prepare = self

    def options(self, num_returns: int) -> Audio:
        assert num_returns == 2
        return self

    def remote(self, source: ClipSource, silent: bool) -> tuple[Coroutine[Any, Any, Any], str]:
        self.asked[source, silent] += 1
        name = self.recordings.get(source.path, source.path)
        return self._prepared(name), f"features of {name}"

    async def _prepared(self, name: str) -> tuple[Clip, int] | str:
        await self.go.wait()
        return "clip_missing: gone" if name == "none.wav" else (Clip(name, 1.0, 25), SIZE)


def pool(*actors: Audio, clips_held: float = 10, seconds: float = 5.0) -> AudioPool:
    values = {"train": "unused", "cache_bytes": round(clips_held * SIZE)}
    config = {"model": {"path": "m"}, "data": values, "cluster": {"actor_timeout_seconds": seconds}}
    return AudioPool(actors, Config.model_validate(config))


def test_a_clip_is_held_while_there_is_room_for_it() -> None:
    held = HeldClips(2 * SIZE)
    first, second = held.hold(ONE, Clip("one", 1.0, 25), SIZE), held.hold(TWO, Clip("two", 1.0, 25), SIZE)
    assert held.find(ONE) is first
    assert held.find(TWO) is second
    assert held.find(THREE) is None


def test_the_clip_asked_for_longest_ago_makes_room() -> None:
    held = HeldClips(2 * SIZE)
    for number, asked in enumerate((ONE, TWO)):
        held.hold(asked, Clip(str(number), 1.0, 25), SIZE)
    held.find(ONE)
    held.hold(THREE, Clip("three", 1.0, 25), SIZE)
    assert [held.find(asked) is not None for asked in (ONE, TWO, THREE)] == [True, False, True]
    assert held.held_bytes == 2 * SIZE


def test_a_recording_of_several_rows_is_held_once_and_goes_with_all_of_them() -> None:
    held = HeldClips(SIZE)
    first = held.hold(ONE, Clip("same", 1.0, 25, "first"), SIZE)
    assert held.hold(TWO, Clip("same", 1.0, 25, "second"), SIZE) is first
    assert held.held_bytes == SIZE
    held.hold(THREE, Clip("other", 1.0, 25), SIZE)
    assert (held.find(ONE), held.find(TWO)) == (None, None)


def test_a_clip_beyond_the_budget_is_held_until_the_next() -> None:
    held = HeldClips(SIZE)
    held.hold(ONE, Clip("one", 1.0, 25), 5 * SIZE)
    assert held.find(ONE) is not None
    held.hold(TWO, Clip("two", 1.0, 25), SIZE)
    assert held.find(ONE) is None
    assert held.held_bytes == SIZE


async def test_a_clip_is_asked_for_once_however_many_wait_for_it_and_comes_with_its_features() -> None:
    audio = Audio()
    clips, audio.go = pool(audio), asyncio.Event()
    clips.prefetch(ONE[0])
    waiting = [asyncio.create_task(clips.prepare(ONE[0])) for _ in range(2)]
    await asyncio.sleep(0)
    audio.go.set()
    first, *others = [*await asyncio.gather(*waiting), await clips.prepare(ONE[0])]
    assert audio.asked == {ONE: 1}
    assert first.features == "features of 1.wav"
    assert all(other is first for other in others)


async def test_who_stops_waiting_takes_the_clip_from_nobody() -> None:
    audio = Audio()
    clips, audio.go = pool(audio), asyncio.Event()
    impatient, patient = (asyncio.create_task(clips.prepare(ONE[0])) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    audio.go.set()
    assert isinstance(await patient, Clip)


async def test_silence_is_another_clip() -> None:
    audio = Audio()
    clips = pool(audio)
    await clips.prepare(ONE[0])
    await clips.prepare(ONE[0], silent=True)
    assert audio.asked == {ONE: 1, (ONE[0], True): 1}


async def test_a_clip_that_cannot_be_used_is_told_and_asked_for_again() -> None:
    audio = Audio()
    clips, none = pool(audio), ClipSource("none.wav")
    assert [await clips.prepare(none) for _ in range(2)] == ["clip_missing: gone"] * 2
    assert audio.asked[none, False] == 2


async def test_clips_are_shared_among_the_actors_and_one_always_goes_to_the_same() -> None:
    audio = Audio(), Audio()
    clips = pool(*audio, clips_held=1)
    for _ in range(2):
        for number in range(20):
            await clips.prepare(ClipSource(f"{number}.wav"))
    one, other = ({source.path for source, _ in actor.asked} for actor in audio)
    assert not one & other
    assert min(len(one), len(other)) > 0
    assert len(one | other) == 20


async def test_an_answer_that_does_not_come_in_time_ends_the_wait() -> None:
    audio = Audio()
    audio.go = asyncio.Event()
    with pytest.raises(WorkerError, match=r"audio actor 0 has not prepared 1\.wav within"):
        await pool(audio, seconds=0.01).prepare(ONE[0])
