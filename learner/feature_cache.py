"""A frozen tower's output, computed once per clip and kept on disk by tower and clip where a directory is given."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from data.audio import log_mel, mel_frames
from learner.audio_tower import encode
from learner.hf import tower_hash

Floats = NDArray[np.float32]


class FrozenTower:
    """Encodes waveforms, looking first at what an earlier run kept."""

    def __init__(
        self, tower: Qwen2AudioEncoder, extractor: WhisperFeatureExtractor, directory: str | Path | None
    ) -> None:
        self.tower = tower
        self.extractor = extractor
        self.directory: Path | None = None
        if directory is not None:
            self.directory = Path(directory).expanduser() / tower_hash(tower)
            self.directory.mkdir(parents=True, exist_ok=True)

    def pooled(self, waveform: Floats, sha256: str) -> Floats:
        """The tower's pooled output for a clip, float32 (audio_tokens, d_model).

        Args:
            waveform: float32 (samples,), 16 kHz mono.
            sha256: names the waveform; equal names must mean equal samples.
        """
        stored = self.directory / f"{sha256}.npy" if self.directory is not None else None
        if stored is not None and stored.exists():
            return np.load(stored)  # type: ignore[no-any-return]
        with torch.inference_mode():
            mel = log_mel(waveform, self.extractor)
            output = encode(self.tower, [mel], [mel_frames(len(waveform))])[0].float().numpy()
        if stored is not None:
            _save(stored, output)
        return output


def _save(path: Path, array: Floats) -> None:
    """Write under a temporary name first: two processes may encode the same clip at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.save(file, array)
    os.replace(temporary, path)
