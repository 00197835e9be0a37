"""What the audio actor keeps, and what it lets go."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import actors.audio
from actors.audio import AudioActor
from configs.schema import Config
from data.audio import SAMPLE_RATE
from data.types import ClipSource
from tests.tiny_models import model_directory

MEL_BYTES = 80 * 108 * 4
"""Of a clip of one second and its margin."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """An actor sets its process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often features were made of each recording; they are kept in place of references to them."""
    counts: Counter[str] = Counter()
    inner = AudioActor.__ray_metadata__.modified_class
    features = inner._features

    def counted(self: Any, waveform: Any, sha256: str) -> Any:
        counts[sha256] += 1
        return features(self, waveform, sha256)

    monkeypatch.setattr(actors.audio.ray, "put", lambda value: value)
    monkeypatch.setattr(inner, "_features", counted)
    return counts


def actor(model: Path, clips_held: float, tower: str = "trained", **data: Any) -> Any:
    """One with room for so many clips of a second."""
    values = {"train": "unused", "cache_bytes": round(clips_held * MEL_BYTES), **data}
    config = Config.model_validate({"model": {"path": str(model), "audio_tower": tower}, "data": values})
    return AudioActor.__ray_metadata__.modified_class(config, str(model), threads=1)


def recording(folder: Path, name: str, seed: int) -> ClipSource:
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(SAMPLE_RATE)
    soundfile.write(folder / name, waveform, SAMPLE_RATE)
    return ClipSource(str(folder / name))


def test_a_clip_is_made_once_while_there_is_room_for_it(model: Path, tmp_path: Path, made: Counter[str]) -> None:
    audio = actor(model, clips_held=2.5)
    one, two = recording(tmp_path, "one.wav", 1), recording(tmp_path, "two.wav", 2)
    first, second = audio.prepare(one), audio.prepare(two)
    assert audio.prepare(one) is first
    assert audio.prepare(two) is second
    assert sorted(made.values()) == [1, 1]


def test_the_clip_asked_for_longest_ago_makes_room(model: Path, tmp_path: Path, made: Counter[str]) -> None:
    audio = actor(model, clips_held=2.5)
    one, two, three = (recording(tmp_path, f"{seed}.wav", seed) for seed in (1, 2, 3))
    first, second = audio.prepare(one), audio.prepare(two)
    name, kept = second.sha256, weakref.ref(second.features.mel)
    del second
    audio.prepare(one)
    assert kept() is not None
    audio.prepare(three)  # two goes
    gc.collect()
    assert kept() is None
    assert audio.prepare(one) is first
    assert audio.prepare(two).sha256 == name
    assert made[first.sha256] == 1
    assert made[name] == 2
    assert audio._held_bytes <= audio._budget_bytes
    assert len(audio._names) == len(audio._held) == 2


def test_a_recording_in_several_files_is_made_once(model: Path, tmp_path: Path, made: Counter[str]) -> None:
    audio = actor(model, clips_held=1.5)
    one, copy, other = (recording(tmp_path, f"{number}.wav", seed) for number, seed in enumerate((1, 1, 2)))
    assert audio.prepare(one) is audio.prepare(copy)
    assert sum(made.values()) == 1
    audio.prepare(other)
    assert list(audio._names) == [(other, False)]


def test_silence_has_the_length_of_a_clip_and_another_name(model: Path, tmp_path: Path, made: Counter[str]) -> None:
    audio = actor(model, clips_held=10)
    source = recording(tmp_path, "one.wav", 1)
    clip, silent = audio.prepare(source), audio.prepare(source, silent=True)
    assert silent.sha256 == f"silence-{clip.sha256}"
    assert silent.audio_tokens == clip.audio_tokens
    assert np.ptp(silent.features.mel) == 0 < np.ptp(clip.features.mel)


def test_runs_that_hear_other_channels_of_a_clip_share_none_of_its_kept_features(
    model: Path, tmp_path: Path, made: Counter[str]
) -> None:
    both = 0.1 * np.random.default_rng(0).standard_normal((SAMPLE_RATE, 2))
    soundfile.write(tmp_path / "both.wav", both, SAMPLE_RATE)
    clips = []
    for channels in ("mean", "first", "mean"):
        audio = actor(model, 1, "frozen", channels=channels, feature_cache=str(tmp_path / "kept"))
        clips.append(audio.prepare(ClipSource(str(tmp_path / "both.wav"))))
        audio._tower.save()
    mean, first, again = (clip.features.pooled for clip in clips)
    assert np.abs(mean - first).max() > 1e-3
    np.testing.assert_array_equal(mean, again)
    assert len({clip.sha256 for clip in clips}) == 1


def test_a_clip_that_cannot_be_read_is_told_with_its_reason(model: Path, tmp_path: Path) -> None:
    assert actor(model, clips_held=1).prepare(ClipSource(str(tmp_path / "none.wav"))).startswith("clip_missing: ")
