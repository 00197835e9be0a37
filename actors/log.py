"""The rollout log: the groups of a step as one Parquet shard, and each recording once.

Written outside of the control loop, which passes references.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import ObjectLostError, RayActorError

from configs.schema import Config
from data.clip_store import ClipStore
from data.remote import remove, sizes, written
from data.step_files import shard_name, shard_step
from data.types import Dropped, Example, Group, LoggedStep
from data.whole_file import whole_file, writing
from data.writing import QUESTION

SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("step", pa.int64()),
        ("example_id", pa.string()),
        ("audio_sha256", pa.string()),
        ("audio_seconds", pa.float32()),
        *QUESTION,
        ("engine", pa.string()),
        ("context_version", pa.int64()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completions", pa.list_(pa.string())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("learner_logprobs", pa.list_(pa.list_(pa.float32()))),
        ("versions", pa.list_(pa.list_(pa.int64()))),
        ("rewards", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("total", pa.list_(pa.float64())),
        ("advantages", pa.list_(pa.float64())),
        ("finish_reasons", pa.list_(pa.string())),
        ("drop_reason", pa.string()),
    ]
)
"""A row a group; of one that was dropped before it was scored only what is known of its question."""


@ray.remote(concurrency_groups={"beat": 1})  # type: ignore[call-overload]
class RolloutLogActor:
    """Writes shards one after the other."""

    def __init__(self, config: Config) -> None:
        self.logging = config.logging
        self._clips: ClipStore | None = None
        self._shards: dict[str, int] | None = None
        """Bytes of every shard that is there, by name."""
        self._full = False
        """Whether a shard had to be removed."""

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        """Answers while the process lives, whatever else it is at: with its id."""
        return os.getpid()

    def write(self, directory: str, clips: str, step: LoggedStep) -> tuple[str, ...]:
        """Write `step_NNNNNN.parquet`, and the recordings of its groups that are not kept yet.

        Args:
            directory: path or URL of the run's `rollouts/`.
            clips: and of its `clips/`.
            step: what to write; its references are asked for here.

        Returns:
            What the user should hear of.
        """
        logprobs: dict[int, Sequence[Any]] = {}
        for of_rank in ray.get(list(step.logprobs)):
            logprobs |= of_rank
        groups: list[Group] = ray.get(list(step.groups))
        rows = [
            _scored(step.step, group) | {"advantages": list(values), "learner_logprobs": logprobs.get(number)}
            for number, (group, values) in enumerate(zip(groups, step.advantages, strict=True))
        ]
        for drop in step.dropped:
            group = _fetched(drop)
            scored = _question(step.step, drop.group_id, drop.example) if group is None else _scored(step.step, group)
            rows.append(scored | {"drop_reason": drop.why})
            groups += [group] if group is not None else []
        notes = self._write_shard(directory, step.step, pa.Table.from_pylist(rows, SCHEMA))
        if self._clips is None:
            self._clips = ClipStore(clips, self.logging.clips_bytes)
        return notes + self._clips.add({group.prompt.clip.sha256: group.prompt.example.clip for group in groups})

    def _write_shard(self, directory: str, step: int, table: pa.Table) -> tuple[str, ...]:
        """Write it, and remove the oldest where there is no room for all; gives what is to be told of that."""
        name = shard_name(step)
        with (
            writing(f"{directory}/{name}", table.nbytes),
            written(directory) as folder,
            whole_file(folder / name) as partial,
        ):
            pq.write_table(table, partial, compression="zstd")
            size = partial.stat().st_size
        if self._shards is None:
            self._shards = {shard: taken for shard, taken in sizes(directory).items() if shard_step(shard) is not None}
        self._shards[name] = size
        notes: tuple[str, ...] = ()
        while len(self._shards) > 1 and sum(self._shards.values()) > self.logging.rollouts_bytes:
            oldest = min(self._shards, key=lambda shard: shard_step(shard) or 0)
            remove(f"{directory}/{oldest}")
            del self._shards[oldest]
            if not self._full:
                notes = (
                    f"the rollout log is over logging.rollouts_bytes ({self.logging.rollouts_bytes:,}): the groups "
                    f"of the oldest steps are removed",
                )
            self._full = True
        return notes


def _scored(step: int, group: Group) -> dict[str, Any]:
    prompt, completions = group.prompt, group.completions
    return _question(step, prompt.group_id, prompt.example) | {
        "audio_sha256": prompt.clip.sha256,
        "audio_seconds": prompt.clip.seconds,
        "engine": group.engine,
        "context_version": group.context_version,
        "prompt_token_ids": list(prompt.token_ids),
        "completions": [completion.text for completion in completions],
        "token_ids": [list(completion.token_ids) for completion in completions],
        "logprobs": [list(completion.logprobs) for completion in completions],
        "versions": [list(completion.versions) for completion in completions],
        "rewards": [(name, list(values)) for name, values in group.rewards.items()],
        "total": list(group.total),
        "finish_reasons": [completion.finish_reason for completion in completions],
    }


def _fetched(drop: Dropped) -> Group | None:
    """The group of a question that was dropped after it was scored, unless it was lost with its node since."""
    if drop.group is None:
        return None
    try:
        return ray.get(drop.group)  # type: ignore[no-any-return]
    except (ObjectLostError, RayActorError):
        return None


def _question(step: int, group_id: str, example: Example) -> dict[str, Any]:
    return {"group_id": group_id, "step": step, "example_id": example.id, **example.columns()}
