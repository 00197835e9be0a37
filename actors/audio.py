"""The audio actor: turns a recording to mel and, with a frozen tower, encodes it.

It keeps nothing: what it gives is its caller's, and lies in the object store.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from configs.schema import Config
from data.audio import SAMPLE_RATE, audio_tokens, log_mel, mel_frames, read_clip
from data.errors import ClipError
from data.types import SILENCE, Clip, ClipFeatures, ClipSource

if TYPE_CHECKING:
    from learner.feature_cache import FrozenTower  # imports torch


@ray.remote(concurrency_groups={"beat": 1})  # type: ignore[call-overload]
class AudioActor:
    """Prepares clips, one at a time."""

    def __init__(self, config: Config, model_path: str, threads: int) -> None:
        import torch

        from learner.hf_files import load_processor

        torch.set_num_threads(threads)
        self.data = config.data
        self._extractor = load_processor(model_path).feature_extractor
        self._tower: FrozenTower | None = None
        if config.model.audio_tower == "frozen":
            from learner.feature_cache import FrozenTower
            from learner.hf import load_tower

            tower = load_tower(model_path, getattr(torch, config.model.dtype))
            self._tower = FrozenTower(
                tower, self._extractor, config.data.feature_cache, config.data.feature_cache_bytes
            )
        self._waveforms = config.rollout.audio == "waveform"

    def prepare(self, source: ClipSource, silent: bool) -> tuple[tuple[Clip, int] | str, ClipFeatures | None]:
        """The clip, the bytes of its features, and these; or `reason: detail` where it cannot be used.

        Args:
            source: where its bytes lie.
            silent: replace every sample by zero.
        """
        try:
            waveform, sha256 = read_clip(source, self.data.max_seconds, self.data.min_seconds, self.data.channels)
        except ClipError as error:
            return f"clip_{error.reason}: {error}", None
        if silent:
            waveform, sha256 = np.zeros_like(waveform), f"{SILENCE}{sha256}"
        features = self._features(waveform, sha256)
        clip = Clip(sha256, len(waveform) / SAMPLE_RATE, audio_tokens(mel_frames(len(waveform))))
        return (clip, features.nbytes), features

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        """Answers while the process lives, whatever else it is at: with its id."""
        return os.getpid()

    def _features(self, waveform: Any, sha256: str) -> ClipFeatures:
        given = waveform if self._waveforms else None
        if self._tower is not None:
            # the cache may be that of runs which hear other channels
            heard = sha256 if self.data.channels == "mean" else f"{self.data.channels}-{sha256}"
            return ClipFeatures(waveform=given, pooled=self._tower.pooled(waveform, heard))
        mel = log_mel(waveform, self._extractor)
        return ClipFeatures(waveform=given, mel=mel, valid_frames=mel_frames(len(waveform)))
