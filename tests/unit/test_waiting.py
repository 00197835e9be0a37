"""What ends a run waits neither for Ray nor on its failures."""

from __future__ import annotations

import threading

import pytest
from ray.exceptions import RpcError

from cluster import waiting


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What threads that fail leave behind."""
    found: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: found.append(str(failed.exc_value)))
    return found


def test_what_ends_is_given_up_when_ray_has_gone(told: list[str]) -> None:
    done: list[str] = []

    def gone() -> None:
        raise RpcError("CANCELLED")

    waiting.ended(lambda: done.append("before"), gone, lambda: done.append("after"))
    assert done == ["before"]
    assert told == []


def test_a_defect_of_what_ends_is_told(told: list[str]) -> None:
    waiting.ended(lambda: int("no number"))
    assert len(told) == 1


def test_what_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "END_SECONDS", 0.05)
    held, over = threading.Event(), threading.Event()
    waiting.ended(held.wait, over.set)
    assert not over.is_set()
    held.set()
    assert over.wait(10)
