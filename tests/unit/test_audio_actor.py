"""What the audio actor makes of a recording."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from actors.audio import AudioActor
from configs.schema import Config
from data.audio import SAMPLE_RATE
from data.types import ClipSource


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """An actor sets its process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def actor(model: Path, tower: str = "trained", **data: Any) -> Any:
    values = {"model": {"path": str(model), "audio_tower": tower}, "data": {"train": "unused", **data}}
    return AudioActor.__ray_metadata__.modified_class(Config.model_validate(values), str(model), threads=1)


def recording(folder: Path, name: str, seed: int) -> ClipSource:
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(SAMPLE_RATE)
    soundfile.write(folder / name, waveform, SAMPLE_RATE)
    return ClipSource(str(folder / name))


@pytest.mark.heavy
def test_a_clip_is_told_of_with_the_bytes_of_what_was_made_of_it(model: Path, tmp_path: Path) -> None:
    source = recording(tmp_path, "one.wav", 1)
    (clip, size), features = actor(model).prepare(source, False)
    assert clip.sha256 == hashlib.sha256(Path(source.path).read_bytes()).hexdigest()
    assert clip.seconds == 1
    assert clip.features is None
    assert features.waveform is features.pooled is None
    assert size == features.mel.nbytes > 0
    (_, size), features = actor(model, "frozen").prepare(source, False)
    assert features.mel is None
    assert size == features.pooled.nbytes > 0


@pytest.mark.heavy
def test_silence_has_the_length_of_a_clip_and_another_name(model: Path, tmp_path: Path) -> None:
    audio, source = actor(model), recording(tmp_path, "one.wav", 1)
    ((clip, _), features), ((silent, _), nothing) = audio.prepare(source, False), audio.prepare(source, True)
    assert silent.sha256 == f"silence-{clip.sha256}"
    assert silent.audio_tokens == clip.audio_tokens
    assert np.ptp(nothing.mel) == 0 < np.ptp(features.mel)


@pytest.mark.heavy
def test_runs_that_hear_other_channels_of_a_clip_share_none_of_its_kept_features(model: Path, tmp_path: Path) -> None:
    both = 0.1 * np.random.default_rng(0).standard_normal((SAMPLE_RATE, 2))
    soundfile.write(tmp_path / "both.wav", both, SAMPLE_RATE)
    clips, made = [], []
    for channels in ("mean", "first", "mean"):
        audio = actor(model, "frozen", channels=channels, feature_cache=str(tmp_path / "kept"))
        (clip, _), features = audio.prepare(ClipSource(str(tmp_path / "both.wav")), False)
        clips.append(clip)
        made.append(features.pooled)
        audio._tower.save()
    mean, first, again = made
    assert np.abs(mean - first).max() > 1e-3
    np.testing.assert_array_equal(mean, again)
    assert len({clip.sha256 for clip in clips}) == 1


def test_a_clip_that_cannot_be_read_is_told_with_its_reason(model: Path, tmp_path: Path) -> None:
    told, features = actor(model).prepare(ClipSource(str(tmp_path / "none.wav")), False)
    assert told.startswith("clip_missing: ")
    assert features is None
