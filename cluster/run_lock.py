"""One process at a time on a run directory.

The kernel holds the lock, so that it ends with the process that took it, however that ends.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

FILE, HOLDER = ".lock", ".lock.json"


class RunInUse(ValueError):
    """Another process is at work on the run."""


class RunLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._lock = FileLock(run / FILE, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Take the lock, or raise at once with who has it."""
        self._take()
        (self.run / HOLDER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")

    def release(self) -> None:
        """Let the next process have the run."""
        self._lock.release()

    def check(self) -> None:
        """Raise where another process has the lock."""
        if (self.run / FILE).exists():
            self._take()
            self.release()

    def _take(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise RunInUse(
                f"{self.run} is in use{_told(self.run / HOLDER)}: wait for that run to end or stop it; run.name=OTHER "
                f"writes elsewhere"
            ) from None


def _told(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f" by process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it is just being written
        return ""
