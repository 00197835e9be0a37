"""What `bench.sync` has the learner and the engines do in their processes, beside what Auricle has them do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.weights.buckets import Slot
from learner.hf import load_tensors


def send_each(learner: Any, engines: Sequence[Any], loading: bool, waiting: bool) -> None:
    """In the learner: send each weight by a call of its own, and wait for the engines before the next or at the end."""
    calls = []
    for name, tensor in learner._learner.engine.weights():
        weight = ray.put(tensor.numpy())
        calls += [engine.__ray_call__.remote(take, name, weight, loading) for engine in engines]
        if waiting:
            ray.get(calls)
            calls = []
    ray.get(calls)


def take(engine: Any, name: str, weight: NDArray[Any], loading: bool) -> None:
    """In an engine's actor: take one weight."""
    if loading:
        slot = Slot(name, str(weight.dtype), weight.shape, 0)
        in_vllm(engine, "update_weights", {"slots": [slot], "bucket": weight.reshape(-1).view(np.uint8)})


def in_vllm(engine: Any, method: str, update: dict[str, Any] | None = None) -> None:
    """In an engine's actor: have vLLM's worker do something with its weights."""
    settings = {"update_info": update} if update else {}
    engine._engine.call(lambda vllm: vllm.collective_rpc(method, kwargs=settings)).result()


def leave_buckets(engine: Any, leave: bool) -> None:
    """In an engine's actor: load nothing of what comes, or load it again."""

    def change(vllm: Any) -> None:
        def of_worker(worker: Any) -> None:
            for name in ("start_weight_update", "update_weights", "finish_weight_update"):
                if leave:
                    setattr(worker, name, lambda update_info=None: None)
                else:
                    delattr(worker, name)

        vllm.collective_rpc(of_worker)

    engine._engine.call(change).result()


def keep_own(engine: Any) -> None:
    """In an engine's actor: keep the weights that it started with, in memory of its own."""
    engine.own = [(name, tensor.clone()) for name, tensor in load_tensors(engine.config.model.path)]


def load_own(engine: Any) -> None:
    """In an engine's actor: load what `keep_own` kept."""

    def load(vllm: Any) -> None:
        vllm.collective_rpc("start_weight_update")
        vllm.collective_rpc(lambda worker: worker.get_model().load_weights(iter(engine.own)) and None)
        vllm.collective_rpc("finish_weight_update")

    engine._engine.call(load).result()
