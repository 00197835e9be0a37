"""SIGTERM, as `ray job stop`, Slurm and containers send it, ends a command as Ctrl-C does: through every `finally`."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_told = threading.Event()
"""A SIGTERM has come. Further ones change nothing: senders repeat them, and what is ending would be broken off."""


def begin() -> None:
    """Count SIGTERM as Ctrl-C from now on, also where an earlier command of this process was ended by one."""
    _told.clear()
    listen()


def listen() -> None:
    """Take SIGTERM back: Ray puts a handler of its own in place, which aborts, whenever a driver starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _told.is_set():
        return
    _told.set()
    if not callable(signal.getsignal(signal.SIGINT)):  # a shell starts what it puts in the background deaf to Ctrl-C
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
