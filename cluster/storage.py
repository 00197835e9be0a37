"""Every node of a joined cluster shows, before an actor starts, that it reaches what the run writes and reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.remote import Remote, RemoteError, discard, is_url

LIMIT_SECONDS = 120.0
"""A node that has not answered by then has no room for a worker, or its storage hangs."""


class StorageError(RuntimeError):
    """A node does not reach a path."""


def prove(runs: str | None, samples: Sequence[str]) -> None:
    """Have every node write a file that this process sees, and read the samples.

    Args:
        runs: `run.dir`, a path or URL, made where it is missing; None where nothing is to be written.
        samples: paths and URLs of files and directories that every node has to read.

    Raises:
        StorageError: names the nodes, the path and the mend.
    """
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Resources"].get("CPU")}
    reached = None if runs is None else f"{runs.rstrip('/')}/.reached-{uuid.uuid4().hex}"
    if reached is not None and not is_url(reached):
        Path(reached).mkdir(parents=True)
    try:
        problems = [
            f"{alive[node]}: {problem}"
            for node, found in _ask(list(alive), reached, samples).items()
            for problem in found
        ]
    finally:
        if reached is not None:
            discard(reached)
    if problems:
        raise StorageError(
            "clips, model and run.dir have to lie on storage that every node reaches, under the same absolute paths:\n"
            + "\n".join(f"  node {problem}" for problem in problems)
        )


def _seen(directory: str, name: str) -> bool:
    return Remote(directory).exists(name) if is_url(directory) else (Path(directory) / name).exists()


def _ask(nodes: Sequence[str], reached: str | None, samples: Sequence[str]) -> dict[str, list[str]]:
    """What each node does not reach."""
    answers = {
        node: _reach.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            reached, node, list(samples)
        )
        for node in nodes
    }
    done, _ = ray.wait(list(answers.values()), num_returns=len(answers), timeout=LIMIT_SECONDS)
    problems = {}
    for node, answer in answers.items():
        if answer not in done:
            problems[node] = [f"no answer within {LIMIT_SECONDS:g} s"]
            continue
        try:
            problems[node], written = ray.get(answer)
        except RayError as error:
            problems[node] = [f"it failed: {error}"]
            continue
        if reached is not None and written and not _seen(reached, node):
            problems[node].append(f"what it writes into run.dir={reached.rpartition('/')[0]} is not seen here")
    return problems


@ray.remote(num_cpus=0, max_retries=0)
def _reach(directory: str | None, name: str, samples: list[str]) -> tuple[list[str], bool]:
    """Open the samples and write `directory`/`name`; gives what cannot be read or written, and whether it was."""
    problems = []
    for sample in samples:
        try:
            _open(sample)
        except RemoteError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{sample} cannot be read ({error.strerror})")
    try:
        if directory is not None and is_url(directory):
            Remote(directory).write(name, b"reached")
        elif directory is not None:
            with suppress(FileNotFoundError):  # it is not the same storage: the driver does not see the file
                (Path(directory) / name).touch()
    except RemoteError as error:
        return [*problems, str(error)], False
    except OSError as error:
        return [*problems, f"run.dir={Path(directory or '').parent} cannot be written ({error.strerror})"], False
    return problems, True


def _open(sample: str) -> None:
    """Raise RemoteError or OSError where a file or directory cannot be read."""
    path = Path(sample)
    if is_url(sample):
        if not Remote(sample).files():
            raise RemoteError(f"{sample} holds no file")
    elif path.is_dir():
        next(path.iterdir(), None)
    else:
        path.open("rb").close()
