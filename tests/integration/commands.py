"""Our commands as a user starts them: a process of its own, its output by the line, and whatever it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent.parent
POLL_SECONDS = 0.05
RAY_SERVICE = re.compile(r"/ray/(core|_private|dashboard|autoscaler)/|ray::(DashboardAgent|RuntimeEnvAgent)")
"""Its daemons, by their command lines."""


class Command:
    """`python -m MODULE ...` in a session of its own, with this checkout's packages.

    Args:
        module: what is started.
        arguments: its command line.
        cwd: where.
        python: by which interpreter; default the tests' own.
        env: the whole environment; default the tests' own, with this checkout on the path.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        python: Path = Path(sys.executable),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            cwd=cwd,
            env={**(os.environ | {"PYTHONPATH": str(CHECKOUT)} if env is None else env), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        """Everything that it has printed so far."""
        return "\n".join(self.lines)

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def wait_for(self, happened: Callable[[], object], what: str, seconds: float) -> None:
        """Until `happened` while the command goes on."""
        until(lambda: happened() or self.process.poll() is not None, f"{what}:\n{self.output}", seconds)
        assert happened(), f"{what} did not happen, the command ended:\n{self.output}"

    def left(self) -> dict[int, str]:
        """Every live process of its session, which what it starts stays in: command lines by process id."""
        return dict(_processes(self.process.pid))

    def open_ports(self) -> dict[str, list[int]]:
        """Ports that each of these processes opens to other machines, by its name and id; Ray's services as `ray/`."""
        found = {}
        for pid, line in self.left().items():
            with suppress(psutil.NoSuchProcess):
                connections = psutil.Process(pid).net_connections("tcp")
                listening = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]
                service = "ray/" if RAY_SERVICE.search(line) else ""
                found[f"{service}{line[:40]} ({pid})"] = [
                    address.port for address in listening if not address.ip.startswith(("127.", "::1"))
                ]
        return found

    def kill(self) -> None:
        """End whatever is left."""
        for pid in self.left():
            _signal(pid, signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def command(module: str, *arguments: str, cwd: Path, **how: Any) -> Iterator[Command]:
    """Start a command as `Command` does; nothing of it outlives the block."""
    started = Command(module, *arguments, cwd=cwd, **how)
    try:
        yield started
    finally:
        started.kill()


def until(happened: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until `happened`; fail with `what` when it has not in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)


def scrape(lines: Sequence[str]) -> dict[str, float]:
    """Samples of the `/metrics` that a run printed the address of, by name with labels; empty before it has."""
    printed = [match for line in lines if (match := re.search(r"http://\S+/metrics", line))]
    if not printed:
        return {}
    return samples(printed[0].group())


def samples(address: str) -> dict[str, float]:
    """Samples of a `/metrics`, by name with labels."""
    with urllib.request.urlopen(address, timeout=5) as response:
        text = response.read().decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def _processes(session: int) -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        try:
            if os.getsid(pid) != session:
                continue
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it ended meanwhile
            continue
        if line:  # a zombie has none
            yield pid, line


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
