"""The `nccl` transport: rank 0 of the learner broadcasts, every process of every engine receives, in one group.

vLLM's own transfer does the broadcast. Around it lies what it leaves open: each engine gets ranks of its own in the
group; the group is made anew when an engine has come or gone; no engine is waited for once the broadcast has begun that
was not ready before; and the learner's ranks, which make each weight whole together, never wait for it: what they give
is handed to the thread that broadcasts, and dropped when that thread is stuck.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

AHEAD = 8
"""Tensors that are gathered before the broadcast has taken them."""
STAGES = 3
"""Engines prepare, join and take, each within its limit."""
LOOK_SECONDS = 0.05
"""Between two looks at whether a broadcast still goes on."""


class EnginesLost(RuntimeError):
    """Engines did not do their part."""


class EngineClient:
    """What vLLM's trainer asks of the engines, asked of several rollout actors, each call with a deadline.

    Args:
        engines: handles by name, in the order of their ranks.
        workers: ranks of an engine.
        seconds: longest wait for an answer.
    """

    def __init__(self, engines: Mapping[str, Any], workers: int, seconds: float) -> None:
        self.engines = dict(engines)
        self.version = -1
        """Policy version of the broadcast."""
        self.lost: dict[str, str] = {}
        """Engines that did not do their part, and why."""
        self._workers = workers
        self._seconds = seconds

    def prepare(self) -> None:
        """Have every engine stop for the broadcast."""
        self._all("prepare", [()] * len(self.engines))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have every engine join the group, with ranks of its own after the learner's."""
        offsets = range(1, 1 + self._workers * len(self.engines), self._workers)
        self._all("join", [({**init_info, "rank_offset": offset},) for offset in offsets])

    def start_weight_update(self) -> None:
        """Engines start when they are told what comes."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Have every engine receive, and go on with the new version."""
        self._all("take", [(update_info,)] * len(self.engines))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Engines have finished when they have received."""

    def _all(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        calls = {
            getattr(engine, method).remote(self.version, *given): name
            for (name, engine), given in zip(self.engines.items(), arguments, strict=True)
        }
        pending, until = list(calls), time.monotonic() + self._seconds
        while pending:
            done, pending = ray.wait(pending, timeout=max(until - time.monotonic(), 0))
            if not done:
                late = f"has not finished {method!r} of version {self.version} within {self._seconds:g} s"
                self.lost |= {calls[call]: f"{calls[call]} {late}" for call in pending}
                raise EnginesLost(method)
            try:
                ray.get(done)
            except RayError as error:  # the others may wait for this one in the group
                name = calls[done[0]]
                self.lost[name] = f"{name}: {str(error).strip().splitlines()[-1]}"
                raise EnginesLost(method) from error


class Handover(WeightSource):
    """Weights on their way from the thread that gathers them to the thread that broadcasts."""

    def __init__(self, shapes: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> None:
        self._metadata = [ParamMeta(*shape) for shape in shapes]
        self._ahead: queue.Queue[tuple[str, Tensor]] = queue.Queue(AHEAD)

    def metadata(self) -> list[ParamMeta]:
        """Name, type and shape of each weight."""
        return self._metadata

    def put(self, name: str, tensor: Tensor, goes_on: Callable[[], bool]) -> bool:
        """Hand over a copy, as long as the broadcast goes on; whether it was taken."""
        copy = tensor.clone()
        while goes_on():
            try:
                self._ahead.put((name, copy), timeout=LOOK_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights, as they are handed over."""
        for _ in self._metadata:
            yield self._ahead.get()


class Broadcaster:
    """Rank 0's end of the broadcasts.

    Args:
        shapes: what is broadcast, in its order.
        workers: ranks of an engine.
        seconds: longest wait for an engine to prepare, to join the group and to take the weights.
        packed: whether vLLM sends tensors together; it can on GPUs alone.
    """

    def __init__(
        self,
        shapes: Iterable[tuple[str, torch.dtype, tuple[int, ...]]],
        workers: int,
        seconds: float,
        packed: bool = True,
    ) -> None:
        self.shapes = list(shapes)
        self.workers = workers
        self.seconds = seconds
        self.packed = packed
        self._client: EngineClient | None = None
        self._trainer: NCCLTrainerWeightTransferEngine | None = None

    def send(self, version: int, engines: Mapping[str, Any], weights: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
        """Broadcast a version to engines; gives those that did not take it, and why.

        Whatever becomes of the broadcast, all weights are asked for: the other ranks wait in each.
        """
        if self._client is None or self._client.engines != dict(engines):
            self._leave()
            self._client = EngineClient(engines, self.workers, self.seconds)
        client, handover = self._client, Handover(self.shapes)
        client.version = version
        sent = in_thread(lambda: self._send(client, handover))
        until = time.monotonic() + STAGES * self.seconds

        def goes_on() -> bool:
            return not sent.done() and not client.lost and time.monotonic() < until

        taken = True
        for name, tensor in weights:
            taken = taken and handover.put(name, tensor, goes_on)
        while goes_on():
            time.sleep(LOOK_SECONDS)
        if sent.done() and not client.lost:
            sent.result()
            return {}
        self._leave()
        return client.lost or dict.fromkeys(engines, f"the broadcast of version {version} has not ended in time")

    def _send(self, client: EngineClient, handover: Handover) -> None:
        client.prepare()
        if self._trainer is None:
            self._trainer = self._group(client, handover)
        self._trainer.source = handover
        self._trainer.send_weights()

    def _group(self, client: EngineClient, handover: Handover) -> NCCLTrainerWeightTransferEngine:
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        info = NCCLTrainerInitInfo(
            master_address=ray.util.get_node_ip_address(),
            master_port=port,
            world_size=1 + self.workers * len(client.engines),
            packed=self.packed,
            rank=0,
        )
        return NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=handover)

    def _leave(self) -> None:
        """Leave the group, which may be broken: vLLM aborts it."""
        trainer, self._trainer, self._client = self._trainer, None, None
        if trainer is not None:
            in_thread(trainer.shutdown)


def in_thread(work: Callable[[], None]) -> Future[None]:
    """Do it in a thread that keeps no process alive; gives its outcome."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="broadcast", daemon=True).start()
    return outcome
