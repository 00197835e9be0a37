"""Attention over packed groups: each position sees its own group's prompt and its own completion, up to itself.

Two ways to the same numbers, both PyTorch's own kernels and both chosen by name through transformers' table of
attention functions:

- `shared_prefix` (CPUs): two calls of SDPA a group, the prompt causally and the completions over the whole group under
  a mask. The work is that of the groups, not of the square of the micro-batch, and nothing is padded.
- `flex_attention` (GPUs): one FlexAttention kernel for the micro-batch, whose block mask skips what nobody sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from learner.packing import Packed, attention_allowed

SDPA = "shared_prefix"
FLEX = "flex_attention"


@dataclass(frozen=True, slots=True)
class Spans:
    """What the layers get for a mask under `shared_prefix`: where groups begin and end, and who sees whom in each."""

    sizes: tuple[int, ...]
    """Tokens of the first prompt, of its completions, of the second prompt, and so on; T in all."""
    masks: tuple[Tensor, ...]
    """A group's completions (C) over its positions (P + C), boolean (C, P + C)."""


Mask = dict[str, Spans | BlockMask]
"""What a language model takes as `attention_mask`, by kind of layer."""


def mask_for(packed: Packed, kind: str, device: torch.device) -> Mask:
    """The mask of a micro-batch for layers that attend by `kind`."""
    return {"full_attention": _block_mask(packed, device) if kind == FLEX else _spans(packed, device)}


def _spans(packed: Packed, device: torch.device) -> Spans:
    sizes: list[int] = []
    masks: list[Tensor] = []
    start = 0
    for end in packed.group_ends:
        prompt = int((packed.branches[start:end] == 0).sum())
        sizes += [prompt, end - start - prompt]
        masks.append(torch.from_numpy(attention_allowed(packed, slice(start, end))[prompt:]).to(device))
        start = end
    return Spans(tuple(sizes), tuple(masks))


def _block_mask(packed: Packed, device: torch.device) -> BlockMask:
    segments = torch.from_numpy(packed.segments).to(device)
    branches = torch.from_numpy(packed.branches).to(device)

    def allowed(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        visible = (branches[column] == 0) | (branches[row] == branches[column])
        return (segments[row] == segments[column]) & visible & (row >= column)

    length = len(packed.token_ids)
    return create_block_mask(allowed, None, None, length, length, device=device)


def _shared_prefix(
    module: nn.Module,
    query: Tensor,  # (1, heads, T, D)
    key: Tensor,  # (1, key-value heads, T, D)
    value: Tensor,
    attention_mask: Spans,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' signature of an attention function; returns (1, T, heads, D)."""
    spans, outputs = attention_mask, []
    repeats = query.shape[1] // key.shape[1]
    groups = [sum(pair) for pair in zip(spans.sizes[::2], spans.sizes[1::2], strict=True)]
    # split, not slices: the gradient of a split is one concatenation, that of a slice a padded copy of everything
    pieces = query.split(list(spans.sizes), dim=2)
    keys, values = key.split(groups, dim=2), value.split(groups, dim=2)
    for number, mask in enumerate(spans.masks):
        prompt, completions = pieces[2 * number], pieces[2 * number + 1]
        own_keys, own_values = _repeated(keys[number], repeats), _repeated(values[number], repeats)
        length = prompt.shape[2]
        outputs.append(
            scaled_dot_product_attention(
                prompt, own_keys[:, :, :length], own_values[:, :, :length], is_causal=True, scale=scaling
            )
        )
        if completions.shape[2]:
            outputs.append(
                scaled_dot_product_attention(completions, own_keys, own_values, attn_mask=mask, scale=scaling)
            )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _repeated(states: Tensor, repeats: int) -> Tensor:
    """Each key-value head once for each of its query heads: (1, K, T, D) -> (1, K * repeats, T, D)."""
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=1)


AttentionInterface.register(SDPA, _shared_prefix)
