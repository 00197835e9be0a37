"""The audio tower on the frames that a clip has, not on the 30 seconds that it is padded to.

`Qwen2AudioEncoder.forward` insists on 3,000 mel frames and masks the attention to padding afterwards. A position of
the tower sees two mel frames beyond its own through the convolutions and, through attention, valid positions only.
So the tower run on the valid frames and a small margin gives the same output (to 1e-5 in float32), many times
cheaper on short clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu, pad
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from data.audio import MARGIN_FRAMES, audio_tokens, tower_positions

PADDING_SHARE = 0.25
"""Padding that a batch may hold, as a share of its frames: more batches against more wasted work."""

BATCH_FRAMES = 48_000
"""Mel frames of one batch at most (16 clips of 30 s), which bounds the memory of the attention."""


def encode(
    tower: Qwen2AudioEncoder,
    mels: Sequence[np.ndarray | Tensor],
    valid_frames: Sequence[int],
    one_batch: bool = False,
) -> list[Tensor]:
    """Pooled output of the tower for each clip, (audio_tokens, d_model), in the tower's type and on its device.

    A mel is (mel_bins, frames) with frames = min(valid + MARGIN_FRAMES, 2 x max_source_positions). Differentiable,
    and made of calls to the tower's own modules alone, so that hooks on them (ZeRO-3, checkpointing) see every use
    of a weight. Layer drop is not applied. `one_batch` pads all clips to the longest and calls each layer once,
    however long they are: ranks that share the weights have to call them equally often.
    """
    clips = [
        _checked(tower, index, mel if isinstance(mel, Tensor) else torch.tensor(mel), valid)
        for index, (mel, valid) in enumerate(zip(mels, valid_frames, strict=True))
    ]
    pooled: list[Tensor | None] = [None] * len(clips)
    batches = [list(range(len(clips)))] if one_batch else _batches([clip.shape[1] for clip in clips])
    for batch in batches:
        lengths = [tower_positions(valid_frames[index]) for index in batch]
        outputs = _encode_batch(tower, [clips[index] for index in batch], lengths)
        for index, output in zip(batch, outputs, strict=True):
            pooled[index] = output[: audio_tokens(valid_frames[index])]
    return [output for output in pooled if output is not None]


def _checked(tower: Qwen2AudioEncoder, index: int, mel: Tensor, valid: int) -> Tensor:
    bins, longest = tower.num_mel_bins, 2 * tower.max_source_positions
    frames = min(valid + MARGIN_FRAMES, longest)
    if not 0 < valid <= longest or audio_tokens(valid) < 1:
        raise ValueError(f"clip {index} has {valid} valid mel frames; the tower takes 3 to {longest}")
    if mel.ndim != 2 or mel.shape[0] != bins or mel.shape[1] < frames:
        raise ValueError(f"clip {index} has a mel of shape {tuple(mel.shape)}; ({bins}, {frames}) is needed")
    return mel[:, :frames]


def _batches(frames: Sequence[int]) -> Iterator[list[int]]:
    """Indices of clips of like length together, longest first."""
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(frames)), key=lambda index: -frames[index]):
        used += frames[index]
        padded = frames[batch[0]] * (len(batch) + 1) if batch else frames[index]
        if batch and (padded > BATCH_FRAMES or padded - used > PADDING_SHARE * used):
            yield batch
            batch, used = [], frames[index]
        batch.append(index)
    if batch:
        yield batch


def _encode_batch(tower: Qwen2AudioEncoder, mels: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Mels (mel_bins, frames) of clips with `lengths` tower positions -> (B, max(lengths) // 2, d_model)."""
    device, dtype = tower.conv1.weight.device, tower.conv1.weight.dtype
    longest = max(mel.shape[1] for mel in mels)
    batch = torch.stack([pad(mel, (0, longest - mel.shape[1])) for mel in mels]).to(device, dtype)  # (B, bins, F)
    hidden = gelu(tower.conv2(gelu(tower.conv1(batch)))).permute(0, 2, 1)  # (B, P, D)
    hidden = hidden[:, : max(lengths)]
    hidden = hidden + tower.embed_positions(torch.arange(hidden.shape[1], device=device))
    mask = _padding_mask(lengths, dtype, device)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    pooled: Tensor = tower.layer_norm(tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1))
    return pooled


def _padding_mask(lengths: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask (B, 1, P, P) that hides keys after a clip's end; None where no clip is shorter than another."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    ends = torch.tensor(lengths, device=device)
    hidden = torch.arange(longest, device=device) >= ends[:, None]  # (B, P)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, torch.finfo(dtype).min)
    return mask[:, None, None, :].expand(-1, 1, longest, -1)
