"""The least that a step of `bench.step` can cost: its floating-point operations and the bytes that it moves, by phase.

Operations are counted by torch while the work is done once, on the packed groups that a step has. A step that samples
without waste computes what the packed forward computes: every prompt once and every completion token once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bench.learner import lay_out, parts_of
from bench.parity import GroupMaker
from configs.schema import Config
from data.types import Example
from learner import audio_tower
from learner.hf import load_model
from learner.policy import Policy

PASSES_OF_ADAMW = 7
"""Weight, gradient and both moments are read, weight and moments are written."""
PASSES_OF_SYNC = 4
"""The learner copies a weight once and the engine does, each reading and writing."""


def work(config: Config, examples: Sequence[Example], completion_tokens: int) -> dict[str, float]:
    """`operations_PHASE` and `bytes_PHASE` of a step that trains the tower, with the KL, in float32."""
    policy = Policy(load_model(config.model.path, torch.float32), temperature=1.0)
    maker, size = GroupMaker(config.model.path), config.algorithm.group_size
    vocabulary = policy.model.lm_head.out_features
    groups = [
        maker.group(example, torch.randint(vocabulary, (size, completion_tokens), generator=_generator(number)))
        for number, example in enumerate(examples)
    ]
    features = {group.prompt.clip.sha256: group.prompt.clip.features for group in groups}
    parts = parts_of(groups, features, policy.audio_token_id)
    batches = [batch for batch, _ in lay_out(parts, config.learner.micro_batch_tokens)]

    tower = policy.model.model.audio_tower
    clips = [part.clip for part in parts]
    heard = counted(lambda: audio_tower.encode(tower, [c.mel for c in clips], [c.valid_frames for c in clips]))
    losses: list[torch.Tensor] = []
    forward = counted(lambda: losses.extend(policy(batch)[0].sum() for batch in batches))
    backward = counted(lambda: [loss.backward() for loss in losses])
    weights = sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())
    return {
        "operations_tower": heard,
        "operations_sample": forward,
        "operations_reference": forward,
        "operations_forward": forward,
        "operations_backward": backward,
        "bytes_optimizer": PASSES_OF_ADAMW * weights,
        "bytes_sync": PASSES_OF_SYNC * weights,
    }


def seconds(figures: dict[str, Any]) -> dict[str, float]:
    """What `work` takes by phase at the rates that were measured beside it."""
    rates = {"operations": 1e9 * figures["matmul_gflops"], "bytes": 1e9 * figures["copy_gigabytes_per_second"]}
    bound = {}
    for key, value in figures.items():
        kind, _, phase = key.partition("_")
        if kind in rates and phase != "tower":
            bound[phase] = value / rates[kind]
    return bound


def counted(call: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in the call."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
        call()
    return float(counter.get_total_flops())


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


_ATTENTION_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
"""Which torch's own table leaves out; it counts what a mask or causality hides too."""


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
