"""Whom Prometheus is to scrape of a run: `NAME.targets.json` beside the run's directory, as long as the run goes on.

Prometheus's file-based discovery takes a `*` in the name of a file, and none in the name of a directory.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.exporter import Endpoint
from data.whole_file import whole_file

NAMED = {"engine": "engine", "learner": "rank"}
"""The label by which a process is told from the others of its role."""


class Targets:
    """The file; it is written anew with every change, so that readers find a whole one.

    Args:
        file: where Prometheus looks; None where a run serves no metrics, and nothing is written.
        run: name of the run, a label of every target.
    """

    def __init__(self, file: Path | None, run: str) -> None:
        self.file = file
        self._run = run
        self._processes: dict[tuple[str, str], str] = {}
        """Address by role, and name within the role."""
        self._nodes: dict[str, str] = {}

    def add(self, role: str, name: str, endpoint: Endpoint | None) -> None:
        """A process serves its metrics, or none; one of another machine that listens on loopback is left out.

        Args:
            role: `controller`, `engine` or `learner`.
            name: what it is called among those of its role.
            endpoint: where it is reached.
        """
        if endpoint is None or (endpoint.local and endpoint.machine != socket.gethostname()):
            return
        self._processes[role, name] = endpoint.address
        self._write()

    def remove(self, role: str, name: str) -> None:
        """A process has ended."""
        if self._processes.pop((role, name), None) is not None:
            self._write()

    def set_nodes(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """The Ray nodes that export metrics of their own, as `ray.nodes` tells of them; in place of earlier ones."""
        exporting = [node for node in nodes if node["MetricsExportPort"] > 0]
        self._nodes = {
            node["NodeID"][:8]: f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in exporting
        }
        self._write()

    def entries(self) -> list[dict[str, Any]]:
        """What the file holds: groups of one target each, as Prometheus's file-based discovery reads them.

        Beside `run` and `role` an engine has a label `engine`, a learner rank `rank`, a Ray node `node`.
        """
        processes = [
            _entry(address, run=self._run, role=role, **({NAMED[role]: name} if role in NAMED else {}))
            for (role, name), address in self._processes.items()
        ]
        nodes = [_entry(address, run=self._run, role="ray", node=name) for name, address in self._nodes.items()]
        return [*processes, *nodes]

    def _write(self) -> None:
        if self.file is None:
            return
        with whole_file(self.file) as partial:
            partial.write_text(json.dumps(self.entries(), indent=1) + "\n")


@contextmanager
def listed(directory: Path, controller: Endpoint | None) -> Iterator[Targets]:
    """The targets of a run for the length of the block, its controller among them; none where it serves no metrics.

    Args:
        directory: the run's.
        controller: where the control loop's metrics are.
    """
    file = directory.with_name(f"{directory.name}.targets.json")
    file.unlink(missing_ok=True)  # of a run that was killed
    targets = Targets(file if controller is not None else None, directory.name)
    targets.add("controller", "", controller)
    try:
        yield targets
    finally:
        file.unlink(missing_ok=True)


def _entry(address: str, **labels: str) -> dict[str, Any]:
    return {"targets": [address], "labels": labels}
