"""A run on a Ray cluster of its own, that is launched again whenever it has ended."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.integration.commands import CHECKOUT, Command
from tests.integration.runs import metrics_lines

HEAD_CPUS = 3
"""For everything but a second engine."""
STORE_BYTES = 400_000_000
"""Of each node's object store."""
ENGINES = 2
START_SECONDS, RECOVERY_SECONDS, END_SECONDS = 300.0, 300.0, 60.0
MARK = "AURICLE_TEST_MARK"


@dataclass(frozen=True)
class Launch:
    """One process that drove the run."""

    began_bytes: int
    """Its memory after its first step."""
    ended_bytes: int
    """Its memory when it was last looked at."""
    status: int | None
    error: str
    """Its last words."""


class Patient:
    """The run, and the nodes that it goes on on.

    Args:
        config: file of the configuration; its name is that of the run.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.path = config.parent / "runs" / config.stem
        self.launches: list[Launch] = []
        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark  # whatever is started from here has it
        os.environ["PYTHONPATH"] = str(CHECKOUT)  # for the nodes, which pass it on to every actor
        head = {"num_cpus": HEAD_CPUS, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.node = self.add_node()
        self._command: Command | None = None
        self._began_bytes = self._bytes = 0

    def add_node(self) -> Any:
        """A further node, which has room for one engine."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    @property
    def environment(self) -> dict[str, str]:
        """Of a launch."""
        return {**os.environ, "RAY_ADDRESS": self.cluster.address, "PYTHONPATH": str(CHECKOUT)}

    @property
    def driver(self) -> Command:
        """The launch that goes on."""
        assert self._command is not None
        return self._command

    def steps(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        return metrics_lines(self.path)

    def launch(self) -> None:
        """Start the run, or go on with it, and wait for a step."""
        since = time.time()
        self._command = Command(
            "cluster.launch",
            *("--config", self.config.name, "--auto-resume"),
            cwd=self.config.parent,
            env=self.environment,
        )
        self.wait(lambda: self.stepped(since), "a step", START_SECONDS)
        self._began_bytes = self.look()

    def stepped(self, since: float) -> bool:
        """Whether a step was taken after that time of day."""
        lines = self.steps()
        return bool(lines) and lines[-1]["time"] > since

    def look(self) -> int:
        """Memory of the driver."""
        if self.driver.process.poll() is None:
            self._bytes = int(psutil.Process(self.driver.process.pid).memory_info().rss)
        return self._bytes

    def check(self) -> None:
        """Raise Ended where the launch has ended."""
        if self.driver.process.poll() is not None:
            raise Ended(f"the launch ended with status {self.driver.process.returncode}")

    def wait(self, happened: Callable[[], object], what: str, seconds: float = RECOVERY_SECONDS) -> None:
        """Until something has happened; raises Ended where the launch ends first, and TimeoutError."""
        deadline = time.monotonic() + seconds
        while not happened():
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {what}. The last lines:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self, count: int = 20) -> str:
        """The last that the launch has printed."""
        return "\n".join(self.driver.lines[-count:])

    def ended(self, seconds: float = RECOVERY_SECONDS) -> Launch:
        """Wait for the end of the launch, and note it."""
        status = self.driver.wait(seconds)
        errors = [line for line in self.driver.lines if line.startswith("error: ")]
        launch = Launch(self._began_bytes, self._bytes, status, errors[-1] if errors else "")
        self.launches.append(launch)
        return launch

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of an actor class."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = process.cmdline()
            except psutil.Error:  # it has just ended
                continue
            if line and line[0].startswith(f"ray::{kind}"):
                found.append(process)
        return found

    def processes(self) -> list[str]:
        """Command lines of all that were started for the run and live, whoever their parents are by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    found.append(" ".join(process.cmdline())[:100])
            except psutil.Error:  # it has just ended, or is somebody else's
                continue
        return found

    def close(self) -> None:
        """End the launch and the cluster."""
        if self._command is not None:
            self._command.kill()
        self.cluster.shutdown()


class Ended(RuntimeError):
    """A launch has ended that was to go on."""


@contextmanager
def patient(config: Path) -> Iterator[Patient]:
    """A run that has taken a step; nothing of it outlives the block."""
    made = Patient(config)
    try:
        made.launch()
        yield made
    finally:
        made.close()
