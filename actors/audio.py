"""The audio actor: turns a recording to mel once and, with a frozen tower, encodes it once.

It owns what it made: features lie in the object store, are handed out as references, and the least recently asked
for are let go when its share of the store is full.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import ray

from configs.schema import Config
from data.audio import SAMPLE_RATE, audio_tokens, log_mel, mel_frames, read_clip
from data.errors import ClipError
from data.types import SILENCE, Clip, ClipFeatures, ClipSource


@ray.remote(concurrency_groups={"beat": 1})  # type: ignore[call-overload]
class AudioActor:
    """Prepares clips, one at a time. The same place always goes to the same actor."""

    def __init__(self, config: Config, model_path: str, threads: int) -> None:
        import torch

        from learner.feature_cache import FrozenTower
        from learner.hf import load_tower
        from learner.hf_files import load_processor

        torch.set_num_threads(threads)
        self.data = config.data
        self._extractor = load_processor(model_path).feature_extractor
        self._tower: FrozenTower | None = None
        if config.model.audio_tower == "frozen":
            tower = load_tower(model_path, getattr(torch, config.model.dtype))
            self._tower = FrozenTower(
                tower, self._extractor, config.data.feature_cache, config.data.feature_cache_bytes
            )
        self._waveforms = config.rollout.audio == "waveform"
        self._budget_bytes = config.data.cache_bytes // config.data.encoders
        self._names: dict[tuple[ClipSource, bool], str] = {}
        self._held: OrderedDict[str, tuple[Clip, int, list[tuple[ClipSource, bool]]]] = OrderedDict()
        """Clips, their bytes and what was asked for them, by the hash of the recording: several rows may hold one."""
        self._held_bytes = 0

    def prepare(self, source: ClipSource, silent: bool = False) -> Clip | str:
        """The clip with a reference to its features, or `reason: detail` where it cannot be used.

        Args:
            source: where its bytes lie.
            silent: replace every sample by zero, as a control of what the text alone gives away.
        """
        asked = (source, silent)
        if asked in self._names:
            return self._find(asked)
        try:
            waveform, sha256 = read_clip(source, self.data.max_seconds, self.data.min_seconds, self.data.channels)
        except ClipError as error:
            return f"clip_{error.reason}: {error}"
        if silent:
            waveform, sha256 = np.zeros_like(waveform), f"{SILENCE}{sha256}"
        if sha256 not in self._held:
            features = self._features(waveform, sha256)
            tokens = audio_tokens(mel_frames(len(waveform)))
            self._hold(Clip(sha256, len(waveform) / SAMPLE_RATE, tokens, ray.put(features)), features)
        self._names[asked] = sha256
        self._held[sha256][2].append(asked)
        return self._find(asked)

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        """Answers while the process lives, whatever else it is at: with its id."""
        return os.getpid()

    def _find(self, asked: tuple[ClipSource, bool]) -> Clip:
        name = self._names[asked]
        self._held.move_to_end(name)
        return self._held[name][0]

    def _features(self, waveform: Any, sha256: str) -> ClipFeatures:
        given = waveform if self._waveforms else None
        if self._tower is not None:
            # the cache may be that of runs which hear other channels
            heard = sha256 if self.data.channels == "mean" else f"{self.data.channels}-{sha256}"
            return ClipFeatures(waveform=given, pooled=self._tower.pooled(waveform, heard))
        mel = log_mel(waveform, self._extractor)
        return ClipFeatures(waveform=given, mel=mel, valid_frames=mel_frames(len(waveform)))

    def _hold(self, clip: Clip, features: ClipFeatures) -> None:
        arrays = (features.waveform, features.mel, features.pooled)
        size = sum(array.nbytes for array in arrays if array is not None)
        self._held[clip.sha256] = (clip, size, [])
        self._held_bytes += size
        while self._held_bytes > self._budget_bytes and len(self._held) > 1:
            _, (_, freed, rows) = self._held.popitem(last=False)
            self._held_bytes -= freed
            for asked in rows:
                del self._names[asked]
