"""The `nccl` transport: rank 0 of the learner broadcasts, every process of every engine receives, in one group.

vLLM's own transfer does the broadcast. Around it lies what it leaves open: each engine gets ranks of its own in the
group; the group is made anew when its engines are others; the broadcast begins only when all engines have said that
they are ready, each in its time; and however it ends, the learner's ranks get through the weights, which they make
whole together: a thread of its own broadcasts, and what it does not take in time is dropped.
"""

from __future__ import annotations

import math
import queue
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

from actors.threads import in_thread
from data.errors import last_line
from learner.address import free_address, host_and_port

AHEAD = 8
"""Tensors that are gathered before the broadcast has taken them."""
STAGES = 3
"""Engines prepare, join and take, each within its limit."""
COLLECTIVE_SECONDS = 500.0
"""Longest wait with a tensor in hand: the other ranks wait in the gathering of the next, and NCCL ends their processes
after `learner.engine.MEETING_TIME`."""
LOOK_SECONDS = 0.05
"""Between two looks at whether a broadcast still goes on."""


class EnginesLost(RuntimeError):
    """Engines did not do their part."""


class BroadcastOver(RuntimeError):
    """What was to be broadcast is not handed over any more."""


class EngineClient:
    """What vLLM's trainer asks of the engines, asked of several rollout actors, each call with a deadline.

    Args:
        engines: handles by name, in the order of their ranks.
        workers: ranks of an engine.
        seconds: longest wait for an answer; for that to `take` it begins when all weights are gathered.
    """

    def __init__(self, engines: Mapping[str, Any], workers: int, seconds: float) -> None:
        self.engines = dict(engines)
        self._workers = workers
        self._seconds = seconds
        self.begin(-1)

    def begin(self, version: int) -> None:
        """From now on it is about the broadcast of this version."""
        self.version = version
        self.ready = False
        """Whether all engines do nothing else any more."""
        self.lost: dict[str, str] = {}
        """Engines that did not do their part, and why."""
        self.done: set[str] = set()
        """Engines that have the version."""
        self.gathered = threading.Event()
        """Set when no further weight comes."""

    def prepare(self) -> None:
        """Have every engine stop for the broadcast."""
        self._all("prepare", [()] * len(self.engines))
        self.ready = True

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have every engine join the group, with ranks of its own after the learner's."""
        offsets = range(1, 1 + self._workers * len(self.engines), self._workers)
        self._all("join", [({**init_info, "rank_offset": offset},) for offset in offsets])

    def start_weight_update(self) -> None:
        """Engines start when they are told what comes."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Have every engine receive, and go on with the new version."""
        self._all("take", [(update_info,)] * len(self.engines), self.gathered, self.done)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Engines have finished when they have received."""

    def _all(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]],
        since: threading.Event | None = None,
        done: set[str] | None = None,
    ) -> None:
        """Call a method of all engines; `done` gets the names of those that have answered."""
        calls = {
            getattr(engine, method).remote(self.version, *given): name
            for (name, engine), given in zip(self.engines.items(), arguments, strict=True)
        }
        pending, until = list(calls), math.inf
        while pending:
            if until == math.inf and (since is None or since.is_set()):
                until = time.monotonic() + self._seconds
            answered, pending = ray.wait(pending, timeout=min(max(until - time.monotonic(), 0), LOOK_SECONDS))
            for call in answered:
                try:
                    ray.get(call)
                except RayError as error:  # the others may wait for this one in the group
                    self.lost[calls[call]] = f"{calls[call]}: {last_line(error)}"
                    raise EnginesLost(method) from error
                if done is not None:
                    done.add(calls[call])
            if pending and time.monotonic() > until:
                late = f"has not finished {method!r} of version {self.version} within {self._seconds:g} s"
                self.lost |= {calls[call]: f"{calls[call]} {late}" for call in pending}
                raise EnginesLost(method)


class Handover(WeightSource):
    """Weights on their way from the thread that gathers them to the thread that broadcasts.

    Args:
        shapes: what comes, in its order.
        seconds: longest wait until the next is taken.
    """

    def __init__(self, shapes: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], seconds: float) -> None:
        self._metadata = [ParamMeta(*shape) for shape in shapes]
        self._seconds = seconds
        self._ahead: queue.Queue[tuple[str, Tensor]] = queue.Queue(AHEAD)
        self._closed = threading.Event()

    def metadata(self) -> list[ParamMeta]:
        """Name, type and shape of each weight."""
        return self._metadata

    def put(self, name: str, tensor: Tensor, over: Callable[[], bool] = lambda: False) -> None:
        """Hand over a copy, as long as the broadcast goes on; `over` tells when it does not."""
        if self._closed.is_set():
            return
        copy = tensor.clone()
        if copy.is_cuda:
            torch.cuda.current_stream().synchronize()  # who takes it works on other streams
        until = time.monotonic() + self._seconds
        while not (self._closed.is_set() or over()) and time.monotonic() < until:
            try:
                self._ahead.put((name, copy), timeout=LOOK_SECONDS)
            except queue.Full:
                continue
            return
        self._closed.set()

    def close(self) -> None:
        """Take and give nothing any more."""
        self._closed.set()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights, as they are handed over."""
        for _ in self._metadata:
            name, tensor = self._next()
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream())
            yield name, tensor

    def _next(self) -> tuple[str, Tensor]:
        while not self._closed.is_set():
            try:
                return self._ahead.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
        raise BroadcastOver


class Broadcaster:
    """Rank 0's end of the broadcasts.

    Args:
        shapes: what is broadcast, in its order.
        workers: ranks of an engine.
        seconds: longest wait for an engine to prepare, to join the group and to take the weights.
    """

    def __init__(
        self, shapes: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], workers: int, seconds: float
    ) -> None:
        self.shapes = list(shapes)
        self.workers = workers
        self.seconds = seconds
        self.packed = True
        """Whether vLLM sends tensors together; it can on GPUs alone."""
        self._client: EngineClient | None = None
        self._trainer: NCCLTrainerWeightTransferEngine | None = None

    def send(
        self, version: int, engines: Mapping[str, Any], weights: Iterable[tuple[str, Tensor]]
    ) -> tuple[bool, dict[str, str]]:
        """Broadcast a version to engines.

        Whatever becomes of the broadcast, all weights are asked for: the other ranks wait in each.

        Returns:
            Whether it has begun, and the engines that did not take it, with the reason. Where it has not begun, the
            others wait for another; where it has, all that are not named have the version.
        """
        if self._client is None or self._client.engines != dict(engines):
            self._leave()
            self._client = EngineClient(engines, self.workers, self.seconds)
        client, handover = self._client, Handover(self.shapes, min(STAGES * self.seconds, COLLECTIVE_SECONDS))
        client.begin(version)
        sent = in_thread(lambda: self._send(client, handover))

        def over() -> bool:
            return sent.done() or bool(client.lost)

        for name, tensor in weights:
            handover.put(name, tensor, over)
        client.gathered.set()
        if self._ended_well(sent, client):
            return True, {}
        handover.close()
        self._leave()
        if client.lost and not client.ready:
            return False, client.lost
        if not client.lost and sent.done():
            sent.result()  # no engine's fault
        rest = {name: f"{name} is stuck in the broadcast of version {version}" for name in engines}
        return True, {name: why for name, why in (rest | client.lost).items() if name not in client.done}

    def _ended_well(self, sent: Future[None], client: EngineClient) -> bool:
        """Wait for the end; where the group has broken, until a call to an engine tells which one it was."""
        until = time.monotonic() + STAGES * self.seconds
        while not client.lost and time.monotonic() < until:
            if sent.done() and sent.exception() is None:
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _send(self, client: EngineClient, handover: Handover) -> None:
        client.prepare()
        if self._trainer is None:
            self._trainer = self._group(client, handover)
        self._trainer.source = handover
        self._trainer.send_weights()

    def _group(self, client: EngineClient, handover: Handover) -> NCCLTrainerWeightTransferEngine:
        host, port = host_and_port(free_address(ray.util.get_node_ip_address()))
        info = NCCLTrainerInitInfo(
            master_address=host,
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
