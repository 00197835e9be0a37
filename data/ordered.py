"""Do something with many items at once and give the results in their order, holding only a few of either."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items that a thread may have before it."""


def cpus() -> int:
    """Cores that this process may use; a container's quota may be less than it sees."""
    seen, quota = len(os.sched_getaffinity(0)), Path("/sys/fs/cgroup/cpu.max")
    limit, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return seen if limit == "max" else min(seen, max(int(limit) // int(period), 1))


def ordered(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`function` of each item, in the order of the items; an item is taken when there is room for it.

    Threads suffice for what decodes and hashes: both let go of the interpreter.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
