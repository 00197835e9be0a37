"""The `object_store` transport: packed buckets through Ray's object store into vLLM's weight-transfer interface.

Each bucket is put once; every engine of a node maps the same copy. The engine loads views of a bucket in checkpoint
format through vLLM's layerwise reload, which also repacks weights where a kernel needs it (CPUs). Where vLLM's workers
are processes of their own, the rollout actor puts the bucket once into a file in shared memory, which they map.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
    layerwise,
)

from actors.weights.buckets import Bucket, Slot, unpack

BACKEND = "object_store"
SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory."""


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Nothing has to be agreed on before the first update."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """A bucket, or the file in which it lies, and what of it is to be loaded."""

    slots: Sequence[Slot]
    bucket: Bucket | str


class ObjectStoreWeightTransfer(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Worker side: loads the tensors of an update into vLLM's model."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Make the model's layers ready to take checkpoint tensors again."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        """Load tensors of a bucket; a name that the model does not take is an error."""
        bucket = update_info.bucket
        if isinstance(bucket, str):
            bucket = np.memmap(bucket, np.uint8, "r")
        self.model.load_weights(unpack(update_info.slots, bucket))

    def finish_weight_update(self) -> None:
        """Repack for the kernels; layers that got no tensor keep what they had."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to tear down."""


class WorkerExtension:
    """Has vLLM's worker processes import this module, which makes the backend known to them too."""


@contextmanager
def in_shared_memory(bucket: Bucket) -> Iterator[str]:
    """A file that holds the bucket until the block ends; who has mapped it keeps it."""
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, prefix="auricle-") as file:
        file.write(bucket.data)
        file.flush()
        yield file.name


def _is_news(record: logging.LogRecord) -> bool:
    """Not vLLM's warning of every layer, at every update, that keeps its weights because they are not trained."""
    return "Failed to load weights" not in str(record.msg)


WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreWeightTransfer)
logging.getLogger(layerwise.__name__).addFilter(_is_news)
