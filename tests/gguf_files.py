"""GGUF files written field by field: a tiny llama with its tokenizer, as llama.cpp lays them out."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = 32
ALIGNMENT = 32

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("a n", "an s", "ans w", "answ e", "answe r", "d o", "do g", "c a", "ca t")


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A llama of 2 layers x 64 with two key-value heads and tied embeddings, its norms unlike each other."""
    sizes = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def vocabulary() -> list[str]:
    """Control tokens, the 256 bytes, and what the merges make."""
    return [*CONTROL_TOKENS, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def llama_file(path: Path, model: LlamaForCausalLM, quantised: Mapping[str, int] = {}, **metadata: Any) -> Path:
    """The model as llama.cpp would store it: its names, rotated halves side by side.

    Args:
        path: file to write.
        model: with tied embeddings.
        quantised: ggml type of a tensor, by its name in the file; the others are float32.
        metadata: entries to add or change, dots of their keys written as two underscores.
    """
    config = model.config
    entries = {
        "general.architecture": "llama",
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary(),
        "tokenizer.ggml.token_type": [3 if token in CONTROL_TOKENS else 1 for token in vocabulary()],
        "tokenizer.ggml.merges": list(MERGES),
    }
    entries |= {key.replace("__", "."): value for key, value in metadata.items()}
    weights = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    stored = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    theirs = {
        "attn_norm": "input_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        ours = f"model.layers.{layer}"
        for name, inner in theirs.items():
            stored[f"blk.{layer}.{name}.weight"] = weights[f"{ours}.{inner}.weight"]
        for name, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            weight = weights[f"{ours}.self_attn.{name}_proj.weight"]
            stored[f"blk.{layer}.attn_{name}.weight"] = _side_by_side(weight, heads)
    return write(path, entries, stored, quantised)


def _side_by_side(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row i of the first half of a head, then row i of the second."""
    first, second = np.split(weight.reshape(heads, -1, weight.shape[1]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(weight.shape)


def write(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray], quantised: Mapping[str, int] = {}
) -> Path:
    """A GGUF file of version 3."""
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, stored = _value(value)
        content += _string(key) + struct.pack("<I", kind) + stored
    data = b""
    for name, values in tensors.items():
        kind = quantised.get(name, F32)
        dimensions = values.shape[::-1]
        content += _string(name) + struct.pack(f"<I{values.ndim}Q", values.ndim, *dimensions)
        content += struct.pack("<IQ", kind, len(data))
        data += _padded(_encoded(values, kind))
    path.write_bytes(_padded(content) + data)
    return path


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, _string(value)
    kind = STRING if isinstance(value[0], str) else INT32
    items: Sequence[bytes] = [_string(item) if kind == STRING else struct.pack("<i", item) for item in value]
    return ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % ALIGNMENT)


def _encoded(values: np.ndarray, kind: int) -> bytes:
    if kind == F32:
        return values.astype("<f4").tobytes()
    blocks = values.astype(np.float32).reshape(-1, BLOCK)
    return b"".join(_q8_0(block) if kind == Q8_0 else _q4_1(block) for block in blocks)


def _q8_0(block: np.ndarray) -> bytes:
    """A scale, then 32 signed bytes."""
    scale = np.float16(np.abs(block).max() / 127)
    return scale.tobytes() + np.round(block / np.float32(scale)).astype(np.int8).tobytes()


def _q4_1(block: np.ndarray) -> bytes:
    """A scale and a least value, then 16 bytes: the first half of the block in their low bits, the second above."""
    least = np.float16(block.min())
    scale = np.float16((block.max() - block.min()) / 15)
    steps = np.clip(np.round((block - np.float32(least)) / np.float32(scale)), 0, 15).astype(np.uint8)
    return scale.tobytes() + least.tobytes() + (steps[:16] | steps[16:] << 4).tobytes()
