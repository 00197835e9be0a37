"""The end of the weights' way: vLLM's weight-transfer interface, in the processes of an engine's workers.

Tensors come in checkpoint format and go through vLLM's layerwise reload, which also repacks them where a kernel needs
that (CPUs). A bucket of the object store is mapped, not copied: every engine of a node loads views of the same memory.
Where vLLM's workers are processes of their own, the rollout actor puts the bucket once into a file in memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.model_loader.reload import layerwise

from actors.weights.buckets import Bucket, unpack

BACKEND = "auricle"


class WeightTransfer(NCCLWeightTransferEngine):
    """Loads buckets of the object store; what is broadcast through NCCL vLLM's own engine receives."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a bucket (`slots`, and `bucket` or the file that it lies in), or receive a broadcast.

        A name that the model does not take is an error.
        """
        if "bucket" not in update_info:
            super().update_weights(update_info)
            return
        bucket = update_info["bucket"]
        if isinstance(bucket, str):
            bucket = np.memmap(bucket, np.uint8, "r")
        self.model.load_weights(unpack(update_info["slots"], bucket))
        torch.accelerator.synchronize()


class WorkerExtension:
    """Has vLLM's worker processes import this module, which makes the backend known to them too."""


@contextmanager
def in_shared_memory(bucket: Bucket) -> Iterator[str]:
    """A file in memory that holds the bucket until the block ends, by a name that other processes reach it by.

    Who has mapped it keeps it, and if this process ends it is gone.
    """
    descriptor = os.memfd_create("auricle-bucket")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(bucket.data)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _is_news(record: logging.LogRecord) -> bool:
    """Not vLLM's warning of every layer, at every update, that keeps its weights because they are not trained."""
    return "Failed to load weights" not in str(record.msg)


WeightTransferEngineFactory.register_engine(BACKEND, WeightTransfer)
logging.getLogger(layerwise.__name__).addFilter(_is_news)
