"""The DeepSpeed engine around a policy: backward, step, and its state by parameter name.

Gradients are summed, not averaged: every loss given to `backward` is already a share of the global mean, so the sum
over micro-batches and ranks is the gradient of the mean, however the work was split.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from configs.schema import Learner
from learner.address import LOOPBACK, host_and_port, listen
from learner.policy import Policy
from learner.weights import changed, released_name, weights_of

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")
STATE = (MASTER, *MOMENTS)
"""What is kept of a trained parameter beside its weights: a float32 copy, and the optimizer's moments."""

_SUMS_IN_FLOAT32 = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
"""Of gradients over micro-batches and ranks, with ZeRO. ZeRO 1 sends the sum so far, and would round it on the way."""

LOOPBACK_INTERFACE = "lo"
"""Where ranks of one machine talk, so that nobody else can."""

MEETING_TIME = timedelta(minutes=10)
"""Longest wait for the other ranks, at the start and in a collective; the control loop's own limits are shorter."""

SHARED_MEMORY_OP = "deepspeed_shm_comm"
"""An all-reduce for inference on CPUs. No learner calls it, and every checkout would compile it at its first start."""


def join_ranks(rank: int, world_size: int, rendezvous: str, device: str, listener: socket.socket | None = None) -> None:
    """Join the learner's process group; a process that is in it already stays.

    Args:
        rank: this process among the learner ranks.
        world_size: number of learner ranks.
        rendezvous: `tcp://host:port` of rank 0.
        device: `cpu` (gloo) or `cuda` (nccl).
        listener: of rank 0, where it has that address already.
    """
    if dist.is_initialized():
        return
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0", DS_ACCELERATOR=device)
    host, port = host_and_port(rendezvous)
    if host == LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACE)
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(
        backend,
        store=_store(host, port, rank, world_size, listener),
        rank=rank,
        world_size=world_size,
        timeout=MEETING_TIME,
        device_id=torch.device(device, 0) if device != "cpu" and world_size > 1 else None,
    )
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def _store(host: str, port: int, rank: int, world_size: int, listener: socket.socket | None) -> dist.TCPStore:
    """Where the ranks meet. Rank 0 listens on this address alone; torch by itself would on all of the machine's."""
    if rank != 0:
        return dist.TCPStore(host, port, world_size, is_master=False, timeout=MEETING_TIME)
    listening = (listener or listen(host, port)).detach()
    return dist.TCPStore(host, port, world_size, is_master=True, timeout=MEETING_TIME, master_listen_fd=listening)


@contextmanager
def leaving_ranks() -> Iterator[None]:
    """Leave the process group that is joined within the block when the block ends.

    Without that gloo's threads may end a process that is about to exit, with SIGABRT.
    """
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Engine:
    """A policy under DeepSpeed with AdamW. All methods but `weight_shapes` are collectives: all ranks call them, in the
    same order."""

    def __init__(self, policy: Policy, settings: Learner, dtype: torch.dtype) -> None:
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("nothing to train: every parameter of the model is frozen")
        self._plain = plain_optimizer(settings, dtype)
        self.device = trained[0].device
        on_cpu = self.device.type == "cpu"
        self.world_size = dist.get_world_size()
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=policy, model_parameters=trained, config=_deepspeed_config(settings, dtype, on_cpu)
        )
        self.policy: Policy = self.deepspeed.module
        self._inner: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        self._masters = _masters(self.optimizer)
        if self._masters:
            self._inner.state.clear()  # DeepSpeed has stepped once on zeros, and AdamW would count that step
        self._norm: float | None = None
        if self._plain:
            self.optimizer.register_step_pre_hook(lambda *_: self._clip(trained, settings.max_grad_norm))

    @property
    def forward(self) -> nn.Module:
        """The policy as DeepSpeed runs it."""
        return self.deepspeed

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a share of the global mean; of one that is not finite no gradient is either."""
        if not loss.detach().isfinite():
            loss = loss * math.nan  # so that every rank learns of it, from the norm
        self.deepspeed.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear the gradients; returns the global gradient norm before clipping.

        Where that is NaN or infinite no rank has updated anything.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.deepspeed.step()
        return float(self.deepspeed.get_global_grad_norm() if self._norm is None else self._norm)

    def weights(self, trained_only: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Released checkpoint name and whole tensor of each weight, adapters merged, in the dtype of the forward.

        With `trained_only` those that an engine needs after an update. One tensor is whole at a time.
        """
        weights = weights_of(self.policy.model)
        for weight in changed(weights) if trained_only else weights:
            with self._gathered(weight.parameters):
                yield weight.name, weight.value()

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and shape of what `weights` gives, in its order; gathers nothing, so each rank may ask alone."""
        return [(weight.name, weight.dtype, weight.shape) for weight in changed(weights_of(self.policy.model))]

    def state(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Float32 master weights (`master`) and each of the optimizer's moments, by `released_name` of the parameter.

        On rank 0, on the CPU, one of them at a time; the other ranks take part and get empty ones.
        """
        for part in STATE:
            tensors = {}
            for key, parameter in self._trained():
                value = self._read(parameter, part)
                if dist.get_rank() == 0:
                    tensors[key] = _copy(value)
            yield part, tensors

    def load_state(self, state: dict[str, dict[str, Tensor]], updates: int) -> None:
        """Put back what `state` gave after `updates` optimizer steps, on any number of ranks."""
        if not self._plain:
            self._start_moments()
        for key, parameter in self._trained():
            for part in STATE:
                if key not in state[part]:
                    raise ValueError(f"the checkpoint's {part} state has no {key}: was it another model?")
                self._write(parameter, part, state[part][key])
        for entry in self._inner.state.values():
            entry["step"] = torch.tensor(float(updates))

    def _clip(self, parameters: list[nn.Parameter], max_norm: float) -> None:
        """Clip the reduced gradients, and drop what is not finite, as DeepSpeed's own optimizers do.

        It keeps no norm where it wraps a plain one.
        """
        self._norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
        if not math.isfinite(self._norm):
            for parameter in parameters:
                parameter.grad = None  # the optimizer passes it over

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.policy.model.named_parameters():
            if parameter.requires_grad:
                yield released_name(name), parameter

    @staticmethod
    def _gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        if hasattr(parameters[0], "ds_id"):
            return deepspeed.zero.GatheredParameters(list(parameters))
        return nullcontext()

    @staticmethod
    def _sharded(parameter: nn.Parameter) -> bool:
        """Whether ZeRO holds a float32 copy apart from the parameter."""
        return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")

    def _read(self, parameter: nn.Parameter, part: str) -> Tensor:
        if self._sharded(parameter):
            of_master = part == MASTER
            value = safe_get_full_fp32_param(parameter) if of_master else safe_get_full_optimizer_state(parameter, part)
        else:
            master = self._masters.get(parameter, parameter)
            value = master.detach() if part == MASTER else self._inner.state[master].get(part)
        return torch.zeros_like(parameter, dtype=torch.float32) if value is None else value

    def _write(self, parameter: nn.Parameter, part: str, value: Tensor) -> None:
        value = value.to(parameter.device)
        if not self._sharded(parameter):
            master = self._masters.get(parameter, parameter)
            if part in MOMENTS:
                self._inner.state[master][part] = value.clone()
            else:
                master.data.copy_(value)
                parameter.data.copy_(value)
        elif hasattr(parameter, "ds_id"):
            shard = _own_shard(value, parameter)
            if part in MOMENTS:
                safe_set_local_optimizer_state(parameter, shard, part)
            else:
                safe_set_local_fp32_param(parameter, shard)
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.data.copy_(value)
        elif part in MOMENTS:
            safe_set_full_optimizer_state(parameter, value, part)
        else:
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)

    def _start_moments(self) -> None:
        """Make what DeepSpeed's optimizers make at their first step, so that there is a place to write moments to."""
        inner = self._inner
        sharded = getattr(self.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO-3 empties its parameter groups
        for partition in sharded or [parameter for group in inner.param_groups for parameter in group["params"]]:
            if not inner.state[partition]:
                zeros = {moment: torch.zeros_like(partition) for moment in MOMENTS}
                inner.state[partition] = {"step": torch.tensor(0.0), **zeros}
        if hasattr(self.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self.optimizer._lazy_init_hp_params_optimizer_state()


def plain_optimizer(settings: Learner, dtype: torch.dtype) -> bool:
    """Whether DeepSpeed steps torch's optimizer as it is: no sharding, and weights that are their own masters."""
    return settings.zero_stage == 0 and dtype is torch.float32


def _masters(optimizer: object) -> dict[nn.Parameter, Tensor]:
    """Float32 weights by parameter where DeepSpeed keeps them whole, beside bfloat16 without sharding."""
    if not hasattr(optimizer, "fp32_groups"):
        return {}
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {parameter: master for own, masters in groups for parameter, master in zip(own, masters, strict=True)}


def _own_shard(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter under ZeRO-3: an even share, the last one padded."""
    size = parameter.ds_tensor.numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def _deepspeed_config(settings: Learner, dtype: torch.dtype, on_cpu: bool) -> dict[str, object]:
    zero: dict[str, object] = {"stage": settings.zero_stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if plain_optimizer(settings, dtype) else settings.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW steps on the CPU too
        "bf16": {"enabled": dtype is torch.bfloat16, "immediate_grad_update": True},  # frees what is summed at once
        **(_SUMS_IN_FLOAT32 if settings.zero_stage else {}),
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": list(settings.betas),
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
                "fused": on_cpu or settings.offload != "none",
            },
        },
        "steps_per_print": 1_000_000_000,
    }
