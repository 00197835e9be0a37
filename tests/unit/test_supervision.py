"""Who is asked whether it is there, who counts as lost, and when that is too much."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from cluster import supervision
from cluster.supervision import HOUR_SECONDS, UNLUCKY, Losses, RayLost, TooManyLost, Watch, watch_control


class Asked:
    """An actor's handle, without Ray."""

    def __init__(self, *answers: Any, stays: bool = False) -> None:
        self.answers = list(answers)
        self.stays = stays
        self.beat = self
        self.outstanding = 0
        self.most_outstanding = 0

    async def remote(self) -> Any:
        self.outstanding += 1
        self.most_outstanding = max(self.most_outstanding, self.outstanding)
        try:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                await asyncio.sleep(60)
            if isinstance(answer, float):
                await asyncio.sleep(answer)
                return 7
            return answer
        finally:
            self.outstanding -= 1


async def watched(actors: dict[str, Asked], seconds: float = 0.2, start_seconds: float = 60) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    async def silent(name: str, actor: Any, why: str, again: bool) -> None:
        found.append((name, why + " (again)" * again))
        if not actor.stays:
            del actors[name]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await Watch(seconds, start_seconds, lambda: dict(actors), silent).keep()
    return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "BEAT_SECONDS", 0.01)


@pytest.mark.heavy
def test_who_answers_is_left_alone_and_asked_one_question_at_a_time() -> None:
    actors = {"one": Asked(7), "two": Asked(8)}
    assert asyncio.run(watched(dict(actors))) == []
    assert [actor.most_outstanding for actor in actors.values()] == [1, 1]


@pytest.mark.heavy
def test_who_hangs_dies_or_is_another_process_is_told_of() -> None:
    actors = {
        "hangs": Asked(1, 1, None),
        "dies": Asked(1, RayActorError()),
        "is ended for its memory": Asked(1, OutOfMemoryError("too much")),
        "starts again": Asked(1, 1, 2),
        "lives": Asked(3),
    }
    found = dict(asyncio.run(watched(actors)))
    assert set(found) == {"hangs", "dies", "is ended for its memory", "starts again"}
    assert found["hangs"] == "no answer for 0.2 s: its process hangs, or its machine is gone"
    assert found["starts again"] == "its process 1 has ended (again)"


@pytest.mark.heavy
def test_one_that_is_started_again_has_the_time_of_a_start_and_is_told_of_once() -> None:
    found = asyncio.run(watched({"slow": Asked(1, 1, None, 0.5, 7, stays=True)}))
    assert [name for name, _ in found] == ["slow"]


@pytest.mark.heavy
def test_the_first_answer_has_the_time_of_a_start_and_no_more() -> None:
    assert asyncio.run(watched({"starts": Asked(0.5, 7)})) == []
    [(_, why)] = asyncio.run(watched({"hangs": Asked(None)}, start_seconds=0.3))
    assert why.startswith("no answer for 0.3 s")


async def test_what_a_loss_raises_ends_the_watch() -> None:
    async def silent(name: str, actor: Any, why: str, again: bool) -> None:
        raise TooManyLost(name)

    with pytest.raises(ExceptionGroup) as raised:
        await Watch(0.1, 0.1, lambda: {"hangs": Asked(None)}, silent).keep()
    assert isinstance(raised.value.exceptions[0], TooManyLost)


def test_a_control_service_that_answers_is_asked_on_and_one_that_does_not_ends_the_run() -> None:
    asked: list[int] = []
    gone = threading.Event()

    def answers() -> None:
        asked.append(1)
        if len(asked) > 3:
            gone.wait(60)

    with pytest.raises(RayLost, match=r"has not answered for 0.3 s.*--resume"):
        asyncio.run(watch_control(answers, seconds=0.3))
    gone.set()
    assert len(asked) == 4


async def test_more_losses_than_allowed_within_an_hour_end_the_run_with_what_is_known_of_them() -> None:
    now = [0.0]
    losses = Losses(most=3, clock=lambda: now[0])
    for name in ("engine-0", "engine-1", "engine-1"):
        losses.note(name, "node-a", "it died")
    now[0] = HOUR_SECONDS + 1
    for _ in range(3):
        losses.note("engine-0", "node-b", "it died")
    too_many = asyncio.create_task(losses.too_many())
    await asyncio.sleep(0)
    assert not too_many.done()
    losses.note("reward actor 0", None, "it hangs")
    with pytest.raises(
        TooManyLost,
        match=r"4 actors were lost .*hour \(3\): 3 x engine-0, 1 x reward actor 0; 3 on node-b, 1 on an unknown node\. "
        r"The last: it hangs\. .*--resume",
    ):
        await too_many


def test_a_node_is_unlucky_for_an_hour() -> None:
    now = [0.0]
    losses = Losses(most=99, clock=lambda: now[0])
    for _ in range(UNLUCKY):
        assert losses.unlucky_nodes() == set()
        losses.note("engine-0", "node-a", "it died")
        losses.note("engine-0", f"node-{now[0]}", "it died")
        losses.note("reward actor 0", None, "it died")
        now[0] += 1
    assert losses.unlucky_nodes() == {"node-a"}
    now[0] = HOUR_SECONDS + 1
    assert losses.unlucky_nodes() == set()
