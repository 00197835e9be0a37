"""The least that a step of `bench.step` can cost: its floating-point operations and the bytes that it moves, by phase.

Operations are counted by torch while the work is done once, on the packed groups that a step has: what a mask hides is
not counted, and neither is what a kernel computes again in its backward. A step that samples without waste computes
what the packed forward computes, every prompt once and every completion token once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.learner import lay_out, parts_of
from bench.parity import GroupMaker
from configs.schema import Config
from data.types import Example
from learner.hf import load_model
from learner.policy import MicroBatch, Policy

COMPUTED = ("sample", "reference", "forward", "backward")
MOVED = ("optimizer", "sync")
PASSES_OF_ADAMW = 7
"""Weight, gradient and both moments are read, weight and moments are written."""
PASSES_OF_SYNC = 4
"""The learner copies a weight once and the engine does, each reading and writing."""


def work(config: Config, examples: Sequence[Example], completion_tokens: int) -> dict[str, float]:
    """`operations_PHASE` and `bytes_PHASE` of a step that trains the whole model in float32."""
    if config.model.audio_tower != "trained" or config.model.projector != "trained" or config.model.lora is not None:
        raise ValueError("the bound is that of a step that trains the whole model")
    policy = Policy(load_model(config.model.path, torch.float32), temperature=1.0)
    shape, vocabulary = (config.algorithm.group_size, completion_tokens), policy.model.lm_head.out_features
    groups = GroupMaker(config.model.path).random(examples, shape, vocabulary)
    parts = parts_of(groups, policy.audio_token_id)
    losses: list[Tensor] = []
    forward = backward = 0.0

    def loss_of(batch: MicroBatch) -> None:
        losses.append(policy(batch)[0].sum())

    for batch, _ in lay_out(parts, config.learner.micro_batch_tokens):
        forward += counted(partial(loss_of, batch))
        backward += counted(losses.pop().backward)
    trained = sum(p.numel() * p.element_size() for p in policy.parameters() if p.requires_grad)
    return {
        "operations_sample": forward,
        "operations_reference": forward if config.algorithm.beta else 0.0,
        "operations_forward": forward,
        "operations_backward": backward,
        "bytes_optimizer": PASSES_OF_ADAMW * trained,
        "bytes_sync": PASSES_OF_SYNC * trained,
    }


def seconds(figures: Mapping[str, Any]) -> dict[str, float]:
    """What `work` takes by phase at the rates that were measured beside it."""
    computed = {phase: figures[f"operations_{phase}"] / (1e9 * figures["matmul_gflops"]) for phase in COMPUTED}
    rate = 1e9 * figures["copy_gigabytes_per_second"]
    return computed | {phase: figures[f"bytes_{phase}"] / rate for phase in MOVED}


def counted(call: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in the call."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
        call()
    return float(counter.get_total_flops())


def _forward(query: Tensor, key: Tensor, value: Tensor, *options: Any, out_val: Any = None, **more: Any) -> float:
    """The product with the keys and that with the values."""
    return 2 * query.shape[-1] * 2 * _pairs(query, key, *options, **more)


def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor, *options: Any,
    out_val: Any = None, **more: Any,
) -> float:  # fmt: skip
    """The gradients of weights, values, queries and keys."""
    return 4 * query.shape[-1] * 2 * _pairs(query, key, *options, **more)


def _pairs(
    query: Tensor, key: Tensor, dropout: float = 0.0, is_causal: bool = False, *, attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> float:  # fmt: skip
    """Queries times the keys that each sees, over all heads; query (B, H, T, D), an additive mask (..., T, S)."""
    batch, heads, rows, _ = query.shape
    if is_causal:
        return batch * heads * rows * (rows + 1) / 2
    if attn_mask is None:
        return batch * heads * rows * key.shape[2]
    seen = (attn_mask == 0).expand(batch, heads, rows, key.shape[2])
    return float(seen.sum())


_forward._get_raw = _backward._get_raw = True  # type: ignore[attr-defined] # torch then gives tensors, not shapes
_ATTENTION_ON_CPU: dict[Any, Callable[..., float]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
"""Which torch's own table leaves out."""
