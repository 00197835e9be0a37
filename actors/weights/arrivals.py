"""The buckets of a version on the engine's side: they come in any order, and are loaded in theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from actors.weights.buckets import Bucket, Layout, Slot


class Arrivals:
    """Filled by the actor as buckets come, emptied by the engine's thread.

    Args:
        version: policy version of the weights.
        layout: what each bucket holds.
        seconds: longest wait for a bucket.
    """

    def __init__(self, version: int, layout: Layout, seconds: float) -> None:
        self.version = version
        self.layout = layout
        self.seconds = seconds
        self._here: dict[int, Bucket] = {}
        self._arrived = 0
        self._changed = threading.Condition()

    @property
    def complete(self) -> bool:
        """Whether every bucket is here: loading will not wait."""
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
            with self._changed:
                if not self._changed.wait_for(lambda number=number: number in self._here, self.seconds):
                    raise TimeoutError(
                        f"bucket {number + 1} of {len(self.layout.buckets)} of version {self.version} has not come "
                        f"within {self.seconds:g} s"
                    )
                bucket = self._here.pop(number)
            yield slots, bucket
