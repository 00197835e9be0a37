"""What ends a run waits neither for Ray nor on its failures."""

from __future__ import annotations

import threading

import pytest
from ray.exceptions import RpcError

from cluster import waiting


def test_what_ends_is_given_up_when_ray_has_gone(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def gone() -> None:
        raise RpcError("CANCELLED")

    waiting.ended(lambda: done.append("before"), gone, lambda: done.append("after"))
    assert done == ["before"]
    assert capsys.readouterr().err == ""


def test_a_defect_of_what_ends_is_told() -> None:
    told: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda failed: told.append(str(failed.exc_value))
    try:
        waiting.ended(lambda: int("no number"))
    finally:
        threading.excepthook = hook
    assert len(told) == 1


def test_what_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "END_SECONDS", 0.05)
    held, over = threading.Event(), threading.Event()
    waiting.ended(held.wait, over.set)
    assert not over.is_set()
    held.set()
    assert over.wait(10)
