"""What an engine tells of itself. Imports nothing heavy: the control loop reads it."""

from __future__ import annotations

from dataclasses import dataclass


class EngineError(RuntimeError):
    """The engine failed, refused a request or could not take new weights."""


class EngineDied(EngineError):
    """The engine will not answer anybody any more."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """How an engine is doing, told with each of its answers."""

    version: int
    """Policy version of its weights."""
    busy_seconds: float
    """What it has spent on sampling and on loading weights since it started."""
    kv_cache_use: float
    """Share of the key-value cache that was taken when a group last finished."""
