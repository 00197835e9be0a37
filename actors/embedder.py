"""What an engine is given of a clip: embeddings that are made here, or the waveform for vLLM's own path.

Both are driven by the engine's thread alone, and take new weights in the same load as vLLM: a clip is embedded with
the very version that samples from it. The id under which vLLM caches embeddings names the version of what is trained,
so that equal ids mean equal embeddings; what vLLM's own tower made of waveforms is forgotten when the tower changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from actors.weights.buckets import Bucket, Slot, unpack
from configs.schema import Config
from data.audio import MARGIN_FRAMES, SAMPLE_RATE, audio_tokens, mel_frames
from data.types import Clip, ClipFeatures
from learner.audio_tower import encode
from learner.device import device_of
from learner.hf import load_tensors, load_tower
from learner.sizes import PROJECTOR, TOWER

KEPT_BYTES = 256_000_000
"""Embeddings that are kept for the next request about the same clip."""


@dataclass(frozen=True, slots=True)
class AudioInput:
    """A clip as vLLM takes it."""

    data: dict[str, Any]
    """vLLM's multimodal data."""
    id: str
    """Names it in vLLM's caches."""


class Waveforms:
    """Leaves mel, tower and projector to vLLM, which pads every clip to 30 seconds."""

    def __init__(self, config: Config) -> None:
        self.trained = config.model.projector == "trained"

    def load(self, version: int, slots: Sequence[Slot], bucket: Bucket) -> tuple[Slot, ...]:
        """Nothing is left out: vLLM loads everything."""
        return tuple(slots)

    def input(self, clip: Clip, features: ClipFeatures) -> AudioInput:
        """The waveform; its mel, which vLLM keeps by the id, is the same for every version."""
        return AudioInput({"audio": [(features.waveform, SAMPLE_RATE)]}, clip.sha256)

    def silence(self, samples: int) -> ClipFeatures:
        """Features of a clip in which nothing is heard."""
        return ClipFeatures(waveform=torch.zeros(samples).numpy())


class Embedder:
    """Runs the trimmed tower, unless it is frozen and has been run, and the projector."""

    def __init__(self, config: Config, model_path: str, version: int) -> None:
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        self.trained = config.model.projector == "trained"
        self.version = version
        """Policy version of the tower and the projector; frozen ones keep the first."""
        self._device = device_of(config.cluster.device)
        self._tower = None
        if config.model.audio_tower == "trained":
            self._tower = load_tower(model_path, dtype).requires_grad_(False).to(self._device)  # type: ignore[arg-type]
        stored = load_tensors(model_path, PROJECTOR)
        self._projector = {name: tensor.to(self._device, dtype) for name, tensor in stored}
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def load(self, version: int, slots: Sequence[Slot], bucket: Bucket) -> tuple[Slot, ...]:
        """Take the tower's and the projector's tensors of a version's bucket; gives what is left for vLLM."""
        own = [slot for slot in slots if _heard(slot)]
        if own:
            self._copy(unpack(own, bucket))
            self.version = version
            self._kept.clear()
            self._kept_bytes = 0
        return tuple(slot for slot in slots if not _heard(slot))

    def input(self, clip: Clip, features: ClipFeatures) -> AudioInput:
        """The embeddings of a clip, (audio_tokens, hidden), on the CPU."""
        name = f"{clip.sha256}-{self.version}"
        if name in self._kept:
            self._kept.move_to_end(name)
        else:
            self._keep(name, self._embed(features))
        return AudioInput({"audio": [self._kept[name]]}, name)

    def silence(self, samples: int) -> ClipFeatures:
        """Features of a clip in which nothing is heard."""
        frames = mel_frames(samples)
        if self._tower is None:
            width = self._projector[PROJECTOR + "linear.weight"].shape[1]
            return ClipFeatures(pooled=torch.zeros(audio_tokens(frames), width).numpy())
        return ClipFeatures(
            mel=torch.zeros(self._tower.num_mel_bins, frames + MARGIN_FRAMES).numpy(), valid_frames=frames
        )

    @torch.inference_mode()
    def _embed(self, features: ClipFeatures) -> Tensor:
        weight, bias = self._projector[PROJECTOR + "linear.weight"], self._projector[PROJECTOR + "linear.bias"]
        if self._tower is None:
            pooled = torch.as_tensor(features.pooled, device=self._device, dtype=weight.dtype)
        else:
            [pooled] = encode(self._tower, [features.mel], [features.valid_frames])
        return linear(pooled, weight, bias).cpu()

    def _copy(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite weights in place, by their names in a checkpoint."""
        targets: dict[str, Tensor] = dict(self._projector)
        if self._tower is not None:
            targets |= {TOWER + name: parameter for name, parameter in self._tower.named_parameters()}
        for name, tensor in tensors:
            targets[name].copy_(tensor)

    def _keep(self, name: str, embeddings: Tensor) -> None:
        """Keep at least the newest."""
        self._kept[name] = embeddings
        self._kept_bytes += embeddings.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.nbytes


def _heard(slot: Slot) -> bool:
    """Whether a tensor is the tower's or the projector's."""
    return slot.name.startswith((TOWER, PROJECTOR))
