"""New weights on the engine's side: filled by the rollout actor, emptied by the engine's thread.

Either tells the thread which methods of vLLM's workers to call, one after the other, as soon as what they need is here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from actors.weights.buckets import Bucket, Layout, Slot

if TYPE_CHECKING:
    from actors.embedder import Embedder, Waveforms

Call = tuple[str, dict[str, Any]]
"""A method of vLLM's workers, and its arguments."""

START: Call = ("start_weight_update", {})
FINISH: Call = ("finish_weight_update", {})

Shared = Callable[[Bucket], AbstractContextManager[Bucket | str]]
"""Puts a bucket where vLLM's workers reach it."""


class Incoming(Protocol):
    """An update on its way into the engine."""

    version: int
    waited_seconds: float
    """How long `calls` has waited for what was not here."""

    @property
    def complete(self) -> bool:
        """Whether an engine that samples may stop for it: nothing that takes long is still to come."""

    def calls(self, embedder: Embedder | Waveforms, shared: Shared) -> Iterator[Call]:
        """What vLLM's workers have to do; waits for what is not here yet."""


class Arrivals:
    """Buckets, which come in any order and are loaded in theirs.

    Args:
        version: policy version of the weights.
        layout: what each bucket holds.
        seconds: longest wait for a bucket.
    """

    def __init__(self, version: int, layout: Layout, seconds: float) -> None:
        self.version = version
        self.layout = layout
        self.seconds = seconds
        self.waited_seconds = 0.0
        self._here: dict[int, Bucket] = {}
        self._arrived = 0
        self._changed = threading.Condition()

    @property
    def complete(self) -> bool:
        """Whether every bucket is here."""
        return self._arrived == len(self.layout.buckets)

    def add(self, number: int, bucket: Bucket) -> None:
        """Take the bucket of that number."""
        expected = self.layout.sizes_bytes[number]
        if bucket.nbytes != expected:
            raise ValueError(f"bucket {number} of version {self.version} has {bucket.nbytes} bytes, not {expected}")
        with self._changed:
            self._here[number] = bucket
            self._arrived += 1
            self._changed.notify_all()

    def __iter__(self) -> Iterator[tuple[tuple[Slot, ...], Bucket]]:
        """Slots and content of each bucket, once it is here; none is kept.

        Raises:
            TimeoutError: a bucket did not come.
        """
        for number, slots in enumerate(self.layout.buckets):
            begun = time.perf_counter()
            with self._changed:
                here = self._changed.wait_for(partial(self._here.__contains__, number), self.seconds)
                self.waited_seconds += time.perf_counter() - begun
                if not here:
                    raise TimeoutError(
                        f"bucket {number + 1} of {len(self.layout.buckets)} of version {self.version} has not come "
                        f"within {self.seconds:g} s"
                    )
                bucket = self._here.pop(number)
            yield slots, bucket

    def calls(self, embedder: Embedder | Waveforms, shared: Shared) -> Iterator[Call]:
        """Load bucket by bucket; where the rollout actor takes all of it, vLLM has nothing to do."""
        begun = False
        for slots, bucket in self:
            left = embedder.load(self.version, slots, bucket)
            if left and not begun:
                yield START
                begun = True
            if left:
                with shared(bucket) as given:
                    yield "update_weights", {"update_info": {"slots": left, "bucket": given}}
        if begun:
            yield FINISH


class Reception:
    """A broadcast: the engine says when it is ready, joins the group where that is a new one, and receives.

    Args:
        version: policy version of the weights.
        seconds: longest wait for what comes next.
    """

    complete = True

    def __init__(self, version: int, seconds: float) -> None:
        self.version = version
        self.seconds = seconds
        self.waited_seconds = 0.0
        self.ready: Future[None] = Future()
        """Resolves when the engine does nothing else any more."""
        self._next: queue.SimpleQueue[tuple[str, Mapping[str, Any], Future[None]]] = queue.SimpleQueue()

    def join(self, init_info: Mapping[str, Any]) -> Future[None]:
        """Have vLLM's workers join a group; resolves when they have."""
        return self._put("join", init_info)

    def receive(self, update_info: Mapping[str, Any]) -> Future[None]:
        """Have vLLM's workers receive what is broadcast; resolves when they have."""
        return self._put("receive", update_info)

    def _put(self, what: str, info: Mapping[str, Any]) -> Future[None]:
        done: Future[None] = Future()
        self._next.put((what, info, done))
        return done

    def calls(self, embedder: Embedder | Waveforms, shared: Shared) -> Iterator[Call]:
        """Join and receive as told.

        Raises:
            TimeoutError: nothing was told in time.
        """
        self.ready.set_result(None)
        received = False
        while not received:
            begun = time.perf_counter()
            try:
                what, info, done = self._next.get(timeout=self.seconds)
                self.waited_seconds += time.perf_counter() - begun
            except queue.Empty:
                raise TimeoutError(
                    f"the broadcast of version {self.version} has not begun within {self.seconds:g} s"
                ) from None
            if what == "join":
                yield "shutdown_weight_transfer_engine", {}
                yield "init_weight_transfer_engine", {"init_info": dict(info)}
            else:
                yield START
                yield "update_weights", {"update_info": dict(info)}
                yield FINISH
                received = True
            done.set_result(None)
