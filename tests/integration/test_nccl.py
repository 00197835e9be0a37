"""What holds a broadcast together, with engines that answer as told and a trainer that does as vLLM's does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError
from torch import Tensor

from actors.weights import nccl
from actors.weights.nccl import Broadcaster, BroadcastOver, EngineClient, EnginesLost, Handover

SHAPES = [(f"w{number}", torch.float32, (2,)) for number in range(20)]
SECONDS = 0.3


class Call:
    """An answer that may come late, or never."""

    def __init__(self, result: object) -> None:
        self.outcome: Future[object] = Future()
        if isinstance(result, Exception):
            self.outcome.set_exception(result)
        elif result is not Late:
            self.outcome.set_result(result)


class Late:
    """In place of an answer that does not come."""


class Engine:
    """Answers each method with what a test has set; notes what it was told."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, method: str) -> Any:
        engine = self

        class Method:
            def remote(self, *arguments: Any) -> Call:
                engine.told.append((method, *arguments))
                return Call(engine.answers.get(method))

        return Method()


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's waiting, on such answers."""

    def wait(calls: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        done = next((call for call in calls if call.outcome.done()), None)
        if done is None:
            threading.Event().wait(min(timeout, 0.01))
            return [], calls
        return [done], [call for call in calls if call is not done]

    monkeypatch.setattr(nccl.ray, "wait", wait)
    monkeypatch.setattr(nccl.ray, "get", lambda call: call.outcome.result(0))


class Trainer:
    """Asks the client in vLLM's order and takes every weight from the source."""

    def __init__(self, client: EngineClient, stuck: bool = False) -> None:
        self.client = client
        self.source: Any = None
        self.stuck = stuck
        self.sent: list[str] = []
        self.left = threading.Event()

    def send_weights(self) -> None:
        update = threading.Thread(target=self._update, daemon=True)
        update.start()
        if self.stuck:
            self.left.wait(10)
        for name, _ in self.source:
            self.sent.append(name)
        update.join(10)
        if self.client.lost:
            raise EnginesLost("take")

    def _update(self) -> None:
        try:
            self.client.update_weights({"names": [name for name, *_ in SHAPES]})
        except EnginesLost:
            return

    def shutdown(self) -> None:
        self.left.set()


def weights(asked: list[str]) -> Iterator[tuple[str, Tensor]]:
    """As ranks gather them together: every one has to be asked for."""
    for name, _, shape in SHAPES:
        asked.append(name)
        yield name, torch.zeros(shape)


class Sender:
    """A broadcaster whose trainers a test may look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: int = 1, stuck: bool = False) -> None:
        self.trainers: list[Trainer] = []
        self.asked: list[str] = []
        self.broadcaster = Broadcaster(SHAPES, workers, SECONDS)

        def group(client: EngineClient, handover: Handover) -> Trainer:
            client.init_weight_transfer_engine({"master_port": 1})
            self.trainers.append(Trainer(client, stuck))
            return self.trainers[-1]

        monkeypatch.setattr(self.broadcaster, "_group", group)

    def send(self, version: int, engines: Mapping[str, Engine]) -> tuple[bool, dict[str, str]]:
        self.asked = []
        outcome = self.broadcaster.send(version, engines, weights(self.asked))
        assert self.asked == [name for name, *_ in SHAPES]
        return outcome


def test_every_engine_has_ranks_of_its_own_after_the_learners() -> None:
    engines = {name: Engine() for name in ("a", "b", "c")}
    client = EngineClient(engines, workers=2, seconds=SECONDS)
    client.begin(4)
    client.init_weight_transfer_engine({"master_port": 1, "rank_offset": 1})
    assert [engine.told for engine in engines.values()] == [
        [("join", 4, {"master_port": 1, "rank_offset": offset})] for offset in (1, 3, 5)
    ]


def test_the_group_is_made_once_and_anew_when_the_engines_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, first, second = Sender(monkeypatch), Engine(), Engine()
    assert sender.send(1, {"a": first}) == (True, {})
    assert sender.send(2, {"a": first}) == (True, {})
    assert len(sender.trainers) == 1
    assert sender.trainers[0].sent == [name for name, *_ in SHAPES] * 2
    assert [told[:2] for told in first.told] == [
        ("prepare", 1), ("join", 1), ("take", 1), ("prepare", 2), ("take", 2)
    ]  # fmt: skip
    assert sender.send(3, {"a": first, "b": second}) == (True, {})
    assert len(sender.trainers) == 2
    assert sender.trainers[0].left.wait(5)


def test_an_engine_that_is_not_ready_in_time_is_named_before_the_broadcast_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender, ready, late = Sender(monkeypatch), Engine(), Engine(prepare=Late)
    begun, lost = sender.send(1, {"a": ready, "b": late})
    assert not begun
    assert lost == {"b": f"b has not finished 'prepare' of version 1 within {SECONDS:g} s"}
    assert sender.trainers == []
    assert sender.send(1, {"a": ready}) == (True, {})


@pytest.mark.parametrize(("method", "answer"), [("join", RayActorError()), ("take", RayActorError()), ("take", Late)])
def test_when_an_engine_fails_later_all_that_do_not_have_the_version_are_lost(
    monkeypatch: pytest.MonkeyPatch, method: str, answer: object
) -> None:
    sender = Sender(monkeypatch)
    has_it, fails, stuck = Engine(), Engine(**{method: answer}), Engine(take=Late)
    begun, lost = sender.send(1, {"a": has_it, "b": fails, "c": stuck})
    assert begun
    assert {"b", "c"} <= set(lost)
    assert ("a" in lost) == (method == "join")
    if isinstance(answer, Exception):
        assert lost["c"] == "c is stuck in the broadcast of version 1"


def test_a_broadcast_that_is_stuck_ends_for_the_learner_and_loses_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender(monkeypatch, stuck=True)
    begun, lost = sender.send(1, {"a": Engine(take=Late)})
    assert begun
    assert set(lost) == {"a"}
    assert sender.trainers[0].left.wait(5)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", ["prepare", "join", "take"])
def test_nobody_waits_for_a_broadcast_that_has_failed(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    sender = Sender(monkeypatch, stuck=True)  # nothing is taken: the rest of the weights has no place
    sender.broadcaster.seconds = 1000.0
    begun, lost = sender.send(1, {"a": Engine(**{method: RayActorError()})})
    assert begun == (method != "prepare")
    assert set(lost) == {"a"}


def test_a_defect_of_the_broadcast_itself_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender(monkeypatch)

    def broken(client: EngineClient, handover: Handover) -> Trainer:
        raise ValueError("other shapes")

    monkeypatch.setattr(sender.broadcaster, "_group", broken)
    with pytest.raises(ValueError, match="other shapes"):
        sender.send(1, {"a": Engine()})


def test_what_is_handed_over_is_a_copy_and_comes_in_order() -> None:
    handover, tensor = Handover(SHAPES[:2], SECONDS), torch.zeros(2)
    for name in ("w0", "w1"):
        handover.put(name, tensor)
        tensor += 1
    assert [(name, value.tolist()) for name, value in handover] == [("w0", [0, 0]), ("w1", [1, 1])]


def test_nobody_waits_for_ever_at_a_handover_that_is_over() -> None:
    full = Handover(SHAPES, SECONDS)
    for name, _, shape in SHAPES:
        full.put(name, torch.zeros(shape))  # nobody takes them: the rest is dropped after a while
    with pytest.raises(BroadcastOver):
        list(full)
