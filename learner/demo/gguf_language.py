"""A pretrained language model from a GGUF file of the architecture `llama`, under the names of `Qwen2Model`.

The two are one architecture but for the biases of queries, keys and values, which Qwen2 has and llama has not: zeros
give the same model, exactly. llama.cpp stores the rows of queries and keys with the two halves of each rotation side by
side; here they are put apart again, as transformers has them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers.integrations.gguf import GgufHeader, load_gguf_state_dict, read_gguf_metadata
from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize

from learner.hf_files import ModelError

LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
"""A tensor of a layer: llama.cpp's name, transformers'."""
OUTER = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight", "output.weight": "lm_head"}

TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
NEEDED = (
    "llama.embedding_length",
    "llama.block_count",
    "llama.attention.head_count",
    "llama.feed_forward_length",
    "llama.context_length",
    "llama.attention.layer_norm_rms_epsilon",
    TOKENS,
    MERGES,
    "tokenizer.ggml.token_type",
)
"""Keys without which there is no model or no tokenizer."""
SCALING = "llama.rope.scal"
"""What keys of a scaled rotation begin with: `llama.rope.scaling.*`, and `llama.rope.scale_linear` of old files."""
CONTROL = 3
"""Type of a token that is never part of a text."""
SPLIT = "smollm"
"""The one way of splitting text that is read here, as llama.cpp calls it: digits one by one, then GPT-2's pattern.
transformers' own reader of tokenizers in GGUF files knows no such splitting, and keeps digits together."""


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """Sizes of the language model, by the keys of `Qwen2Config`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True, slots=True)
class Language:
    """What a file holds."""

    weights: dict[str, Tensor]
    """float32, by name in `Qwen2Model`; `lm_head` where the file has one, else the embeddings are tied."""
    sizes: LanguageSizes
    tokenizer: Tokenizer
    """Byte-level BPE with the file's tokens and merges; control tokens are special."""


def load_language(path: Path) -> Language:
    """Read the file at `path`; a `ModelError` names what of it cannot be read."""
    try:
        header = GgufHeader.from_file(str(path))
        metadata, _ = read_gguf_metadata(str(path), (TOKENS, MERGES))
        present = path.stat().st_size
    except (ValueError, OSError, struct.error) as error:
        raise ModelError(f"{path} cannot be read: {error}; fetch it again") from error
    if header.architecture != "llama":
        raise ModelError(f"{path} holds a model of the architecture {header.architecture!r}; 'llama' is read")
    needed = max((header.data_start + info.offset + info.nbytes for info in header.tensors), default=0)
    if present < needed:
        raise ModelError(f"{path} is cut short: it has {present:,} bytes, and its last tensor ends at {needed:,}")
    if missing := [key for key in NEEDED if key not in metadata]:
        raise ModelError(f"{path} lacks {', '.join(missing)}; it is no llama as llama.cpp writes one")
    sizes = _sizes(path, metadata)
    return Language(_weights(path, header, sizes), sizes, _tokenizer(path, metadata))


def _sizes(path: Path, metadata: dict[str, Any]) -> LanguageSizes:
    scaling = {key: value for key, value in metadata.items() if key.startswith(SCALING)}
    if scaling and scaling.get("llama.rope.scaling.type") != "none":
        raise ModelError(f"{path} scales its rotation ({scaling}), and a model without such scaling is read")
    heads = metadata["llama.attention.head_count"]
    return LanguageSizes(
        hidden_size=metadata["llama.embedding_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        intermediate_size=metadata["llama.feed_forward_length"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=round(metadata["llama.attention.layer_norm_rms_epsilon"], 12),  # stored in float32
        rope_theta=metadata.get("llama.rope.freq_base", 10000.0),
    )


def _weights(path: Path, header: GgufHeader, sizes: LanguageSizes) -> dict[str, Tensor]:
    shapes = {info.name: info.shape for info in header.tensors}
    weights = {}
    for name, stored in load_gguf_state_dict(header).items():
        values = stored[...]
        if stored.ggml_type in GGML_BLOCK:
            values = dequantize(values.flatten(), stored.ggml_type)
        ours = _name(name)
        if ours is None:
            raise ModelError(f"{path} has a tensor {name}, which a plain llama has not")
        weights[ours] = values.float().reshape(shapes[name])
        if ".q_proj." in ours:
            weights[ours] = _halves_apart(weights[ours], sizes.num_attention_heads)
        if ".k_proj." in ours:
            weights[ours] = _halves_apart(weights[ours], sizes.num_key_value_heads)
        if ".self_attn." in ours and ".o_proj." not in ours:
            weights[ours.replace(".weight", ".bias")] = torch.zeros(len(weights[ours]))
    return weights


def _name(name: str) -> str | None:
    """transformers' name of a tensor of llama.cpp's."""
    if not name.startswith("blk."):
        return OUTER.get(name)
    _, layer, rest = name.split(".", 2)
    return f"layers.{layer}.{LAYER[rest]}" if rest in LAYER else None


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head (heads x head size, H): first the even ones, which rotate with the odd ones that follow."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _tokenizer(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != ("gpt2", SPLIT):
        raise ModelError(f"{path} has a tokenizer of the kind {kind}; ('gpt2', {SPLIT!r}) is read")
    tokens = metadata[TOKENS]
    merges = [tuple(merge.split(" ")) for merge in metadata[MERGES]]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == CONTROL
        ]
    )
    return tokenizer
