"""What stands for NCCL on a CPU: groups of gloo, made where vLLM makes its own. All else of a broadcast is real."""

from __future__ import annotations

import itertools
import os
import signal
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

SECONDS = 10.0
"""Longest wait of a rank for the others."""


class Communicator:
    """The part of vLLM's `PyNcclCommunicator` that a broadcast uses."""

    def __init__(self, address: str, port: int, rank: int, world_size: int) -> None:
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self.rank, self.world_size = rank, world_size
        limit = timedelta(seconds=SECONDS)
        self._group = stateless_init_torch_distributed_process_group(
            address, port, rank, world_size, "gloo", timeout=limit
        )

    def broadcast(self, tensor: Tensor, src: int, stream: object = None) -> None:
        """Rank `src` sends, the others receive into the tensor."""
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        """Nothing is kept."""


def install(*_: Any) -> None:
    """Have this process make such groups from now on."""
    from vllm.distributed.weight_transfer import nccl_engine

    def of_worker(info: Any, parallel: Any) -> Communicator:
        return Communicator(info.master_address, info.master_port, info.rank_offset + parallel.rank, info.world_size)

    def of_trainer(info: Any) -> Communicator:
        return Communicator(info.master_address, info.master_port, 0, info.world_size)

    nccl_engine.worker_init_process_group = of_worker
    nccl_engine.open_trainer_endpoint = of_trainer
    torch.cuda.current_stream = lambda *_: SimpleNamespace(synchronize=lambda: None)


def die_in_broadcast(*_: Any) -> None:
    """Have this process end in the middle of the next broadcast."""
    received = itertools.count()
    broadcast = Communicator.broadcast

    def dying(self: Communicator, *arguments: Any, **options: Any) -> None:
        if next(received) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        broadcast(self, *arguments, **options)

    Communicator.broadcast = dying  # type: ignore[method-assign]


def install_in_learner(actor: Any) -> None:
    """The same in a learner actor; vLLM sends tensors together on GPUs alone."""
    install()
    if actor.rank == 0:
        actor.broadcaster().packed = False
