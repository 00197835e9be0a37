"""The policy's forward over packed groups: log-probability and entropy of every sampled token.

The prompt of a group, clip included, is computed once for all of its completions, and gradients through it are
exact. `lm_head` and the softmax run only where a completion token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2AudioForConditionalGeneration

from data.types import ClipFeatures
from learner import attention, audio_tower, head
from learner.packing import Packed


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed micro-batch with the features of its groups' clips."""

    packed: Packed
    clips: Sequence[ClipFeatures]
    """One a group; where several are about one clip the same object, which the tower then hears once."""
    most_targets: int = 0
    """Predicted tokens of the rank that has most in this micro-batch; ranks with shards call the head equally often."""
    _masks: dict[tuple[str, torch.device], attention.Mask] = field(default_factory=dict, init=False, compare=False)

    def mask(self, kind: str, device: torch.device) -> attention.Mask:
        """Who sees whom, for the language model; made once for the policy and its reference."""
        if (kind, device) not in self._masks:
            self._masks[kind, device] = attention.mask_for(self.packed, kind, device)
        return self._masks[kind, device]

    def forget_masks(self) -> None:
        """Free what is large, of a micro-batch that is kept; it is made again where it is asked for."""
        self._masks.clear()


class Policy(nn.Module):
    """A Qwen2-Audio model seen as a distribution over completion tokens.

    Args:
        model: on its device.
        temperature: at which the completions are sampled.
        attention_kind: `attention.SDPA` or `attention.FLEX`; default: FlexAttention on GPUs.
    """

    def __init__(
        self, model: Qwen2AudioForConditionalGeneration, temperature: float, attention_kind: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.audio_token_id: int = model.config.audio_token_id
        self.attention_kind = attention_kind or (attention.FLEX if model.device.type == "cuda" else attention.SDPA)
        self.language_model.set_attn_implementation(self.attention_kind)

    @property
    def language_model(self) -> PreTrainedModel:
        """What embeddings (1, T, H) go through, under a mask and positions of their own."""
        found: PreTrainedModel = self.model.model.language_model
        return found

    def forward(self, batch: MicroBatch, entropy: head.Entropy = "value") -> tuple[Tensor, Tensor]:
        """Log-probability (N,) and entropy (N,) of each target, in float32 nats, at the sampling temperature."""
        states, targets = self._predicting(batch)
        return head.score(self.model.lm_head, states, targets, self.temperature, entropy, batch.most_targets)

    @torch.no_grad()
    def most_likely(self, batch: MicroBatch) -> Tensor:
        """Whether each target is the most likely token, (N,); greedy decoding gives an answer whose targets all are."""
        layer = self.model.lm_head
        parts = head.chunks(*self._predicting(batch), layer.out_features, batch.most_targets)
        return torch.cat([layer(states).argmax(-1) == wanted for states, wanted in parts])

    def _predicting(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Hidden states (N, H) and the targets (N,) that they predict."""
        packed, device = batch.packed, self.model.lm_head.weight.device
        token_ids = torch.from_numpy(packed.token_ids).to(device)  # (T,)
        embeddings = self.model.get_input_embeddings()(token_ids)  # (T, H)
        audio = self.audio_embeddings(batch.clips, embeddings.dtype)  # (A, H)
        in_prompt = packed.branches == 0  # a sampled placeholder id is a plain token
        places = np.flatnonzero((packed.token_ids == self.audio_token_id) & in_prompt)
        if len(places) != len(audio):
            raise ValueError(f"{len(places)} audio positions in the prompts, {len(audio)} audio embeddings")
        embeddings = embeddings.index_copy(0, torch.from_numpy(places).to(device), audio)
        hidden = self.language_model(
            inputs_embeds=embeddings.unsqueeze(0),
            attention_mask=batch.mask(self.attention_kind, device),
            position_ids=torch.from_numpy(packed.positions).to(device)[None],
            use_cache=False,
        ).last_hidden_state[0]  # (T, H)
        predicting = hidden[torch.from_numpy(packed.sources).to(device)]  # (N, H)
        return predicting, torch.from_numpy(packed.targets).to(device)

    @property
    def _in_lockstep(self) -> bool:
        """Whether ranks hold shards of the weights (ZeRO-3), so that all must call each layer equally often."""
        return hasattr(self.model.lm_head.weight, "ds_id")

    def audio_embeddings(self, clips: Sequence[ClipFeatures], dtype: torch.dtype) -> Tensor:
        """(A, H): the clips' embeddings one after the other, as the language model takes them.

        Args:
            clips: one a group; the same object where several are about one clip.
            dtype: of the language model's embeddings.
        """
        projector = self.model.model.multi_modal_projector
        device = projector.linear.weight.device
        distinct = {id(clip): clip for clip in clips}
        if clips[0].pooled is not None:
            pooled = [torch.as_tensor(clip.pooled, device=device, dtype=dtype) for clip in distinct.values()]
        else:
            pooled = audio_tower.encode(
                self.model.model.audio_tower,
                [torch.as_tensor(clip.mel, device=device, dtype=dtype) for clip in distinct.values()],
                [clip.valid_frames for clip in distinct.values()],
                one_batch=self._in_lockstep,
            )
        by_clip = dict(zip(distinct, pooled, strict=True))
        projected: Tensor = projector(torch.cat([by_clip[id(clip)] for clip in clips]))
        return projected
