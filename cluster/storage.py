"""Every node of a joined cluster shows, before an actor starts, that it reaches what the run writes and reads."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LIMIT_SECONDS = 120.0
"""A node that has not answered by then has no room for a worker, or its storage hangs."""


class StorageError(RuntimeError):
    """A node does not reach a path."""


def prove(runs: Path, samples: Sequence[str]) -> None:
    """Have every node write a file that this process sees, and read the samples.

    Args:
        runs: `run.dir`; made where it is missing.
        samples: files or directories that every node has to read.

    Raises:
        StorageError: names the nodes, the path and the mend.
    """
    runs.mkdir(parents=True, exist_ok=True)
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    with tempfile.TemporaryDirectory(prefix=".reached-", dir=runs) as reached:
        answers = {
            node: _reach.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                reached, node, list(samples)
            )
            for node in alive
        }
        done, late = ray.wait(list(answers.values()), num_returns=len(answers), timeout=LIMIT_SECONDS)
        problems = [f"{alive[node]}: no answer" for node, answer in answers.items() if answer in late]
        for node, answer in answers.items():
            if answer in done:
                unread = ray.get(answer)
                written = (Path(reached) / node).exists()
                unseen = [] if written else [f"what it writes into run.dir={runs} is not seen here"]
                problems += [f"{alive[node]}: {problem}" for problem in [*unseen, *unread]]
    if problems:
        raise StorageError(
            "clips, model and run.dir have to lie on storage that every node reaches, under the same absolute paths:\n"
            + "\n".join(f"  node {problem}" for problem in problems)
        )


@ray.remote(num_cpus=0, max_retries=0)
def _reach(directory: str, name: str, samples: list[str]) -> list[str]:
    """Write `directory`/`name` and open the samples; gives what cannot be read."""
    unread = []
    for sample in samples:
        try:
            path = Path(sample)
            next(path.iterdir(), None) if path.is_dir() else path.open("rb").close()
        except OSError as error:
            unread.append(f"{sample} cannot be read ({error.strerror})")
    with suppress(OSError):  # the driver does not see the file, and says so
        (Path(directory) / name).touch()
    return unread
