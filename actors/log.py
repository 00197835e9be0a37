"""The rollout log: every group of a step as one Parquet shard, written outside of the control loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from data.remote import written
from data.types import Example, Group
from data.whole_file import whole_file, writing

SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("step", pa.int64()),
        ("example_id", pa.string()),
        ("audio_sha256", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("versions", pa.list_(pa.list_(pa.int64()))),
        ("rewards", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("advantages", pa.list_(pa.float64())),
        ("finish_reasons", pa.list_(pa.string())),
        ("drop_reason", pa.string()),
    ]
)


@ray.remote(concurrency_groups={"beat": 1})
class RolloutLogActor:
    """Writes shards one after the other."""

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        """Answers while the process lives, whatever else it is at: with its id."""
        return os.getpid()

    def write(
        self,
        directory: str,
        step: int,
        groups: Sequence[Any],
        advantages: Sequence[tuple[float | None, ...]],
        dropped: Sequence[tuple[str, Example, str]],
    ) -> int:
        """Write `step_NNNNNN.parquet`.

        Args:
            directory: path or URL of the run's `rollouts/`.
            step: the step that the groups went into.
            groups: references to the trained groups.
            advantages: one tuple a trained group.
            dropped: group id, example and reason of each group that was dropped before the step.

        Returns:
            Rows written.
        """
        rows = [_trained(step, group, values) for group, values in zip(ray.get(list(groups)), advantages, strict=True)]
        rows += [_dropped(step, *drop) for drop in dropped]
        name, table = f"step_{step:06d}.parquet", pa.Table.from_pylist(rows, SCHEMA)
        with (
            writing(f"{directory}/{name}", table.nbytes),
            written(directory) as folder,
            whole_file(folder / name) as partial,
        ):
            pq.write_table(table, partial, compression="zstd")
        return len(rows)


def _trained(step: int, group: Group, advantages: tuple[float | None, ...]) -> dict[str, Any]:
    completions = group.completions
    return _question(step, group.prompt.group_id, group.prompt.example) | {
        "audio_sha256": group.prompt.clip.sha256,
        "completions": [completion.text for completion in completions],
        "token_ids": [list(completion.token_ids) for completion in completions],
        "logprobs": [list(completion.logprobs) for completion in completions],
        "versions": [list(completion.versions) for completion in completions],
        "rewards": [(name, list(values)) for name, values in group.rewards.items()],
        "advantages": list(advantages),
        "finish_reasons": [completion.finish_reason for completion in completions],
        "drop_reason": None,
    }


def _dropped(step: int, group_id: str, example: Example, reason: str) -> dict[str, Any]:
    return _question(step, group_id, example) | {"drop_reason": reason}


def _question(step: int, group_id: str, example: Example) -> dict[str, Any]:
    return {
        "group_id": group_id,
        "step": step,
        "example_id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
    }
