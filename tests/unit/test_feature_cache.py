"""A frozen tower encodes a clip once, also for the runs that come after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.audio import log_mel, mel_frames
from learner import feature_cache
from learner.audio_tower import encode
from learner.feature_cache import FrozenTower
from learner.hf import load_tower
from learner.hf_files import load_processor


def frozen(model: Path, directory: Path | None) -> FrozenTower:
    return FrozenTower(load_tower(str(model), torch.float32), load_processor(str(model)).feature_extractor, directory)


def waveform(samples: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Mel frames of every clip that is encoded from now on."""
    seen: list[int] = []

    def counting(tower: object, mels: object, frames: list[int]) -> list[torch.Tensor]:
        seen.extend(frames)
        return encode(tower, mels, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(feature_cache, "encode", counting)
    return seen


def test_a_clip_is_encoded_once_and_comes_back_to_the_bit_in_another_run(
    model: Path, tmp_path: Path, encoded: list[int]
) -> None:
    first = frozen(model, tmp_path)
    output = first.pooled(waveform(), "a")
    mel = log_mel(waveform(), first.extractor)
    with torch.no_grad():
        expected = encode(first.tower, [mel], [mel_frames(20_000)])[0].numpy()
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(first.pooled(waveform(), "a"), output)
    first.save()
    np.testing.assert_array_equal(frozen(model, tmp_path).pooled(waveform(), "a"), output)
    assert len(encoded) == 1


def test_a_recording_that_is_cut_elsewhere_is_another_clip(model: Path, tmp_path: Path, encoded: list[int]) -> None:
    tower = frozen(model, tmp_path)
    assert tower.pooled(waveform(), "a").shape != tower.pooled(waveform()[:8_000], "a").shape
    assert encoded == [125, 50]


def test_another_tower_does_not_see_what_this_one_kept(model: Path, tmp_path: Path, encoded: list[int]) -> None:
    first = frozen(model, tmp_path)
    first.pooled(waveform(), "a")
    first.save()
    other = load_tower(str(model), torch.float32)
    other.layer_norm.weight.data += 1
    FrozenTower(other, first.extractor, tmp_path).pooled(waveform(), "a")
    assert len(encoded) == 2


def test_a_damaged_file_is_encoded_again(model: Path, tmp_path: Path, encoded: list[int]) -> None:
    first = frozen(model, tmp_path)
    output = first.pooled(waveform(), "a")
    first.save()
    [path] = tmp_path.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    np.testing.assert_array_equal(frozen(model, tmp_path).pooled(waveform(), "a"), output)
    assert len(encoded) == 2


def test_without_a_directory_nothing_is_kept(model: Path, encoded: list[int]) -> None:
    tower = frozen(model, None)
    np.testing.assert_array_equal(tower.pooled(waveform(), "a"), tower.pooled(waveform(), "a"))
    tower.save()
    assert len(encoded) == 2
