"""Doing many things at once: the order of the results, and how few items are held."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from data.ordered import AHEAD, ordered


def test_results_come_in_the_order_of_the_items_whatever_takes_longest() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 4 == 0 else 0.0)
        return item * item

    assert list(ordered(slow_first, range(50), threads=4)) == [item * item for item in range(50)]


def test_only_a_few_items_are_taken_before_their_results_are() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1_000):
            taken += 1
            yield item

    results = ordered(lambda item: item, items(), threads=2)
    for done in range(20):
        next(results)
        assert taken <= done + 2 + AHEAD * 2
    results.close()  # type: ignore[attr-defined]


def test_the_threads_work_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    assert list(ordered(lambda _: both.wait() >= 0, range(2), threads=2)) == [True, True]


def test_what_is_raised_reaches_who_asks() -> None:
    def broken(item: int) -> int:
        if item == 3:
            raise KeyError(item)
        return item

    results = ordered(broken, range(10), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
