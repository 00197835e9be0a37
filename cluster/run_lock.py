"""One process at a time on a run directory."""

from __future__ import annotations

import json
import os
import secrets
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
END_SECONDS = 10.0
SILENT_SECONDS = 180.0
"""A holder by URL that has not been heard of for so long has ended, or is to end."""
WATCHED_SECONDS = 2 * BEAT_SECONDS + 5.0
"""How long one that seems silent is watched: it may be a clock that was moved."""
LOOK_SECONDS = 1.0
_silent: set[tuple[str, float]] = set()
"""Token and stamp of holders that this process has watched, and that have told nothing more."""

HOLDS = {"token", "host", "pid", "started", "time"}
"""What a holder by URL tells of itself."""


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

    A holder that was cut off for longer than `SILENT_SECONDS` has lost it, and `check_held` says so. Two that take it
    within the same second may both find it free. No clock has to agree with another: whose time of day seems silent is
    watched for a while before it counts as that.
    """

    def __init__(self, run: Remote) -> None:
        self._run = run
        self._token = secrets.token_hex(8)
        self._released = threading.Event()
        self._beating: threading.Thread | None = None
        self._beat_at = 0.0
        """Time of `time.monotonic` when this process was last heard of."""

    def acquire(self) -> None:
        """Take the lock, or raise RunInUse with who has it, at once unless that one seems silent and is watched."""
        self.check()
        self._beat()
        self._released.clear()
        self._beating = threading.Thread(target=self._keep, name="run lock", daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Let the next process have the run, unless another has it already."""
        if self._beating is None:
            return
        self._released.set()
        self._beating.join(END_SECONDS)  # a beat that is on its way would take the run again
        self._beating = None
        if self._own():
            self._run.remove(HOLDER)

    def check(self) -> None:
        """Raise RunInUse where another process has the lock and lives."""
        holder = self._holder()
        if holder is not None and holder["token"] != self._token and self._lives(holder):
            raise RunInUse(
                f"{self._run.url} is in use by process {holder['pid']} on {holder['host']}: wait for that run to end "
                f"or stop it; if its machine has died, the run is free {SILENT_SECONDS:.0f} s after that; "
                f"run.name=OTHER writes elsewhere"
            )

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Whether a holder is at work: this machine knows its own processes, others are to be heard of."""
        if holder["host"] == socket.gethostname():
            return bool(_started(holder["pid"]) == holder["started"])
        if 0 <= time.time() - holder["time"] < SILENT_SECONDS:
            return True
        told = holder["token"], holder["time"]
        if told not in _silent and self._heard_of(holder):
            return True
        _silent.add(told)
        return False

    def _heard_of(self, holder: dict[str, Any]) -> bool:
        """Whether somebody holds the run who tells anything new while this watches."""
        until, now = time.monotonic() + WATCHED_SECONDS, holder
        while time.monotonic() < until and now == holder:
            time.sleep(LOOK_SECONDS)
            now = self._holder() or {}
        return bool(now) and now != holder

    def check_held(self) -> None:
        """Raise RunInUse where this process has lost the lock."""
        if self._beating is not None and time.monotonic() - self._beat_at > SILENT_SECONDS:
            raise RunInUse(
                f"{self._run.url} could not be told for {SILENT_SECONDS:.0f} s that this process is at work on it, and "
                f"another may be now: --resume goes on where none is"
            )

    def _own(self) -> bool:
        holder = self._holder()
        return holder is not None and holder["token"] == self._token

    def _holder(self) -> dict[str, Any] | None:
        """Who has it; None where nobody has, or what is there is no holder by URL."""
        try:
            found = json.loads(self._run.read(HOLDER) or b"null")
        except ValueError:  # it is just being written
            return None
        return found if isinstance(found, dict) and found.keys() >= HOLDS else None

    def _beat(self) -> None:
        holder = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "time": time.time(),
        }
        self._run.write(HOLDER, json.dumps(holder).encode())
        self._beat_at = time.monotonic()

    def _keep(self) -> None:
        """Beat until the release. Where another has taken the lock it is left, and is lost soon."""
        while not self._released.wait(BEAT_SECONDS):
            with suppress(RemoteError):  # a storage that is gone for a while is no end
                if self._own():
                    self._beat()


def _started(pid: int) -> str | None:
    """When a process of this machine started, in ticks since it booted; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _told(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f" by process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it is just being written
        return ""
