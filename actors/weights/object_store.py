"""The `object_store` transport: packed buckets through Ray's object store into vLLM's weight-transfer interface.

Each bucket is put once; every engine of a node maps the same copy. The engine loads views of a bucket in checkpoint
format through vLLM's layerwise reload, which also repacks weights where a kernel needs it (CPUs).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Nothing has to be agreed on before the first update."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """A bucket as it lies in shared memory, and what of it is to be loaded."""

    slots: Sequence[Slot]
    bucket: Bucket


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
        self.model.load_weights(unpack(update_info.slots, update_info.bucket))

    def finish_weight_update(self) -> None:
        """Repack for the kernels; layers that got no tensor keep what they had."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to tear down."""


def register() -> None:
    """Make the backend known to vLLM in this process; called before an engine is built."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreWeightTransfer)
        logging.getLogger(layerwise.__name__).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not vLLM's warning of every layer, at every update, that keeps its weights because they are not trained."""
    return "Failed to load weights" not in str(record.msg)
