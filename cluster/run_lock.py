"""One process at a time on a run directory."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data.remote import Remote, RemoteError

FILE, HOLDER = ".lock", ".lock.json"
BEAT_SECONDS = 20.0
SILENT_SECONDS = 180.0
"""A holder that has not been heard of for so long has ended."""


class RunInUse(ValueError):
    """Another process is at work on the run."""


class RunLock:
    """Of a directory on a file system. The kernel holds it until `release`, or the end of the process."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._lock = FileLock(run / FILE, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Take the lock, or raise RunInUse at once with who has it."""
        self._take()
        (self.run / HOLDER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")

    def release(self) -> None:
        """Let the next process have the run."""
        self._lock.release()

    def check(self) -> None:
        """Raise RunInUse where another process has the lock."""
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


class UrlLock:
    """`RunLock` of a directory by URL. Storages have no locks, so its holder writes there that it lives.

    Two that take it within the same second may both find it free.
    """

    def __init__(self, run: Remote) -> None:
        self._run = run
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, or raise RunInUse at once with who has it."""
        self.check()
        self._beat()
        self._released.clear()
        self._beating = threading.Thread(target=self._keep, name="run lock", daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Let the next process have the run."""
        if self._beating is None:
            return
        self._released.set()
        self._beating.join()
        self._beating = None
        self._run.remove(HOLDER)

    def check(self) -> None:
        """Raise RunInUse where another process has the lock and lives."""
        holder = self._holder()
        if holder is None or self._beating is not None:
            return
        silent = time.time() - holder["time"]
        ended = holder["host"] == socket.gethostname() and not Path(f"/proc/{holder['pid']}").exists()
        if silent < SILENT_SECONDS and not ended:
            raise RunInUse(
                f"{self._run.url} is in use by process {holder['pid']} on {holder['host']}, which was heard of "
                f"{silent:.0f} s ago: wait for that run to end or stop it; if it has died, the run is free "
                f"{SILENT_SECONDS:.0f} s after that; run.name=OTHER writes elsewhere"
            )

    def _holder(self) -> dict[str, Any] | None:
        content = self._run.read(HOLDER)
        return None if content is None else json.loads(content)

    def _beat(self) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
        self._run.write(HOLDER, json.dumps(holder).encode())

    def _keep(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(RemoteError):  # the run's own writing tells of a storage that is gone
                self._beat()


def _told(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f" by process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it is just being written
        return ""
