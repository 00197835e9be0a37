"""A frozen tower's output, computed once per clip and kept on disk by tower and clip where a directory is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from data.arguments import DEFAULTS
from data.audio import log_mel, mel_frames
from learner.audio_tower import encode
from learner.feature_store import FeatureStore
from learner.hf import tower_hash

Floats = NDArray[np.float32]


class FrozenTower:
    """Encodes waveforms, looking first at what this run, another or an earlier one kept."""

    def __init__(
        self,
        tower: Qwen2AudioEncoder,
        extractor: WhisperFeatureExtractor,
        directory: str | Path | None,
        memory_bytes: int = DEFAULTS.feature_cache_bytes,
    ) -> None:
        self.tower = tower
        self.extractor = extractor
        self._store: FeatureStore | None = None
        if directory is not None:
            place = Path(directory).expanduser() / tower_hash(tower)
            self._store = FeatureStore(place, tower.config.d_model, memory_bytes)

    def pooled(self, waveform: Floats, sha256: str) -> Floats:
        """The tower's pooled output for a clip, float32 (audio_tokens, d_model).

        Args:
            waveform: float32 (samples,), 16 kHz mono.
            sha256: names the recording; equal names of equally long waveforms must mean equal samples.
        """
        name = f"{sha256}-{len(waveform)}"  # a recording may be cut to other lengths in other runs
        kept = self._store.get(name) if self._store is not None else None
        if kept is not None:
            return kept
        with torch.inference_mode():
            mel = log_mel(waveform, self.extractor)
            output: Floats = encode(self.tower, [mel], [mel_frames(len(waveform))])[0].float().numpy()
        if self._store is not None:
            self._store.add(name, output)
        return output

    def save(self) -> None:
        """Write what is not yet on disk, before this process ends."""
        if self._store is not None:
            self._store.save()
