import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from actors.weights.buckets import Bucket, Slot
from actors.weights.incoming import FINISH, START, Arrivals, Reception
from tests.unit.test_rollout_pool import LAYOUT


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


class Ear:
    """Takes the tensors of these names itself."""

    def __init__(self, *own: str) -> None:
        self.own = own

    def load(self, version: int, slots: Sequence[Slot], bucket: Bucket) -> tuple[Slot, ...]:
        return tuple(slot for slot in slots if slot.name not in self.own)


def arrived() -> Arrivals:
    arrivals = Arrivals(1, LAYOUT, seconds=5)
    for number in range(3):
        arrivals.add(number, bucket(number))
    return arrivals


def test_vllm_is_told_once_to_start_and_to_finish_around_what_is_left_for_it() -> None:
    calls = list(arrived().calls(Ear("a"), nullcontext))
    assert (calls[0], calls[-1]) == (START, FINISH)
    loads = [arguments["update_info"] for method, arguments in calls[1:-1] if method == "update_weights"]
    assert [(slot.name, info["bucket"][0]) for info in loads for slot in info["slots"]] == [("b", 1), ("c", 2)]


def test_vllm_has_nothing_to_do_where_nothing_is_left_for_it() -> None:
    assert list(arrived().calls(Ear("a", "b", "c"), nullcontext)) == []


def test_a_bucket_is_shared_as_long_as_it_is_loaded() -> None:
    shared: list[str] = []

    @contextmanager
    def place(content: Bucket) -> Iterator[str]:
        shared.append(str(content[0]))
        yield shared[-1]
        shared.pop()

    for method, arguments in arrived().calls(Ear(), place):
        assert shared == ([arguments["update_info"]["bucket"]] if method == "update_weights" else [])


def test_an_engine_that_is_ready_joins_and_receives_as_told_and_no_more() -> None:
    reception = Reception(3, seconds=5)
    assert not reception.ready.done()
    joined, received = reception.join({"port": 1}), reception.receive({"names": []})
    calls = reception.calls(Ear(), nullcontext)
    assert next(calls) == ("shutdown_weight_transfer_engine", {})
    assert reception.ready.done()
    assert next(calls) == ("init_weight_transfer_engine", {"init_info": {"port": 1}})
    assert not joined.done()
    assert [next(calls), next(calls), next(calls)] == [
        START,
        ("update_weights", {"update_info": {"names": []}}),
        FINISH,
    ]
    assert joined.done()
    assert not received.done()
    assert list(calls) == []
    assert received.done()


def test_an_engine_waits_for_a_broadcast_only_so_long() -> None:
    with pytest.raises(TimeoutError, match=r"the broadcast of version 3 has not begun within 0\.01 s"):
        list(Reception(3, seconds=0.01).calls(Ear(), nullcontext))


def test_time_that_was_waited_is_told() -> None:
    arrivals = Arrivals(1, LAYOUT, seconds=5)
    timer = threading.Timer(0.05, lambda: [arrivals.add(number, bucket(number)) for number in range(3)])
    timer.start()
    list(arrivals)
    assert arrivals.waited_seconds > 0.02
    already = arrived()
    list(already)
    assert already.waited_seconds < arrivals.waited_seconds
