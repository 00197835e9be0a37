import threading

import numpy as np
import pytest

from actors.weights.buckets import Bucket, Layout, Slot
from actors.weights.incoming import Arrivals

LAYOUT = Layout(tuple((Slot(name, "float32", (2,), 0),) for name in "abc"))
"""Three buckets of a tensor each."""


def bucket(number: int) -> Bucket:
    return np.full(LAYOUT.sizes_bytes[number], number, np.uint8)


def test_buckets_that_come_in_any_order_are_given_in_theirs() -> None:
    arrivals = Arrivals(1, LAYOUT, seconds=5)
    for number in (2, 0, 1):
        assert not arrivals.complete
        arrivals.add(number, bucket(number))
    assert arrivals.complete
    assert [(slots[0].name, content[0]) for slots, content in arrivals] == [("a", 0), ("b", 1), ("c", 2)]


def test_who_loads_waits_for_the_next_bucket() -> None:
    arrivals, first = Arrivals(1, LAYOUT, seconds=5), threading.Event()
    loaded: list[str] = []

    def load() -> None:
        for slots, _ in arrivals:
            loaded.append(slots[0].name)
            first.set()

    thread = threading.Thread(target=load)
    thread.start()
    arrivals.add(0, bucket(0))
    assert first.wait(5)
    assert loaded == ["a"]
    for number in (1, 2):
        arrivals.add(number, bucket(number))
    thread.join(5)
    assert loaded == ["a", "b", "c"]


def test_a_bucket_that_does_not_come_is_named() -> None:
    arrivals = Arrivals(7, LAYOUT, seconds=0.01)
    arrivals.add(0, bucket(0))
    with pytest.raises(TimeoutError, match=r"bucket 2 of 3 of version 7 has not come within 0\.01 s"):
        list(arrivals)


def test_a_bucket_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bucket 1 of version 1 has 3 bytes, not 64"):
        Arrivals(1, LAYOUT, seconds=5).add(1, np.zeros(3, np.uint8))
