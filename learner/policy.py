"""The policy's forward over packed groups: log-probability and entropy of every sampled token.

The prompt of a group, clip included, is computed once for all of its completions, and gradients through it are
exact. `lm_head` and the softmax run only where a completion token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from data.audio import mel_frames
from data.types import ClipFeatures
from learner import audio_tower
from learner.packing import Packed, attention_allowed

HEAD_CHUNK_TOKENS = 1024
"""Predicted tokens whose logits are held at once."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed micro-batch with the features of its groups' clips."""

    packed: Packed
    clips: Sequence[ClipFeatures]
    """One a group."""


class Policy(nn.Module):
    """A Qwen2-Audio model seen as a distribution over completion tokens."""

    def __init__(self, model: Qwen2AudioForConditionalGeneration, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.audio_token_id: int = model.config.audio_token_id

    def forward(self, batch: MicroBatch, with_entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probability (N,) and entropy (N,) of each target, in float32 nats, at the sampling temperature."""
        chunks = [self._head(states, wanted, with_entropy_gradient) for states, wanted in self._predicting(batch)]
        logprobs, entropies = zip(*chunks, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    @torch.no_grad()
    def most_likely(self, batch: MicroBatch) -> Tensor:
        """Whether each target is the most likely token, (N,); greedy decoding gives an answer whose targets all are."""
        return torch.cat(
            [self.model.lm_head(states).argmax(-1) == wanted for states, wanted in self._predicting(batch)]
        )

    def _predicting(self, batch: MicroBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Hidden states (n, H) that predict targets (n,), in chunks where weights are not gathered for each."""
        packed, device = batch.packed, self.model.lm_head.weight.device
        token_ids = torch.from_numpy(packed.token_ids).to(device)  # (T,)
        embeddings = self.model.get_input_embeddings()(token_ids)  # (T, H)
        audio = self._audio_embeddings(batch.clips, embeddings.dtype)  # (A, H)
        in_prompt = torch.from_numpy(packed.branches == 0).to(device)  # a sampled placeholder id is a plain token
        is_audio = (token_ids == self.audio_token_id) & in_prompt
        if int(is_audio.sum()) != len(audio):
            raise ValueError(f"{int(is_audio.sum())} audio positions in the prompts, {len(audio)} audio embeddings")
        embeddings = embeddings.masked_scatter(is_audio.unsqueeze(-1), audio)
        hidden = self.model.model.language_model(
            inputs_embeds=embeddings.unsqueeze(0),
            attention_mask=torch.from_numpy(attention_allowed(packed)).to(device)[None, None],  # (1, 1, T, T)
            position_ids=torch.from_numpy(packed.positions).to(device)[None],
            use_cache=False,
        ).last_hidden_state[0]  # (T, H)
        predicting = hidden[torch.from_numpy(packed.sources).to(device)]  # (N, H)
        targets = torch.from_numpy(packed.targets).to(device)
        chunk = len(targets) if self._in_lockstep else HEAD_CHUNK_TOKENS
        yield from zip(predicting.split(chunk), targets.split(chunk), strict=True)

    @property
    def _in_lockstep(self) -> bool:
        """Whether ranks hold shards of the weights (ZeRO-3), so that all must call each layer equally often."""
        return hasattr(self.model.lm_head.weight, "ds_id")

    def _audio_embeddings(self, clips: Sequence[ClipFeatures], dtype: torch.dtype) -> Tensor:
        """(A, H): the clips' embeddings one after the other, after the projector."""
        projector = self.model.model.multi_modal_projector
        device = projector.linear.weight.device
        if clips[0].pooled is not None:
            pooled = [torch.as_tensor(clip.pooled, device=device, dtype=dtype) for clip in clips]
        else:
            pooled = audio_tower.encode(
                self.model.model.audio_tower,
                [torch.as_tensor(clip.mel, device=device, dtype=dtype) for clip in clips],
                [mel_frames(len(clip.waveform)) for clip in clips],
                one_batch=self._in_lockstep,
            )
        return projector(torch.cat(pooled))

    def _head(self, states: Tensor, targets: Tensor, with_entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        logits = self.model.lm_head(states).float() / self.temperature  # (n, V)
        everything = torch.log_softmax(logits, dim=-1)
        logprobs = everything.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (n,)
        if not with_entropy_gradient:
            everything = everything.detach()
        return logprobs, -(everything.exp() * everything).sum(-1)
