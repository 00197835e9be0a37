"""Names by which files of a run tell of which step they are: shards of the rollout log, and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_SHARD_END = ".parquet"
_STEP = re.compile(r"step_(\d+)")


def shard_name(step: int) -> str:
    """File of a step's groups.

    >>> shard_name(7)
    'step_000007.parquet'
    """
    return f"step_{step:06d}{_SHARD_END}"


def shard_step(name: str) -> int | None:
    """The step of a shard; None for a file that is none.

    >>> shard_step("step_1000000.parquet"), shard_step("notes.parquet")
    (1000000, None)
    """
    return checkpoint_step(name.removesuffix(_SHARD_END)) if name.endswith(_SHARD_END) else None


def shards(folder: Path) -> list[Path]:
    """The shards in a folder, in the order of their steps; none where it is not there."""
    return _by_step(folder, shard_step)


def checkpoint_name(step: int) -> str:
    """Directory of a step's checkpoint."""
    return f"step_{step}"


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint; None for a directory that a user has renamed or that is none.

    >>> checkpoint_step("step_450"), checkpoint_step("step_450.broken")
    (450, None)
    """
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of their steps; none where it is not there."""
    return _by_step(folder, checkpoint_step)


def _by_step(folder: Path, step_of: Callable[[str], int | None]) -> list[Path]:
    found = {step: path for path in folder.glob("*") if (step := step_of(path.name)) is not None}
    return [found[step] for step in sorted(found)]
