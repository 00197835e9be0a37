"""The groups that a run has logged, without their tokens: `rollouts/step_*.parquet` of its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import yaml
from pydantic import ValidationError

from configs.schema import Form, Prompt
from data.order import spaced
from data.step_files import shards
from data.types import ClipSource, Example

COLUMNS = ("example_id", "question", "choices", "answer", "completions", "rewards")


class LogError(ValueError):
    """A run whose log has no group, or cannot be read."""


@dataclass(frozen=True, slots=True)
class LoggedGroup:
    """One question with its completions and what each got."""

    example: Example
    """As far as the log knows it: clip, task and what else is optional are empty."""
    completions: tuple[str, ...]
    rewards: Mapping[str, tuple[float | None, ...]]


def read_groups(run: Path, most: int) -> tuple[LoggedGroup, ...]:
    """Trained groups of a run directory, at most so many, spread evenly over its steps."""
    logged = shards(run / "rollouts")
    if not logged:
        raise LogError(f"{run} has logged no group: there is no rollouts/step_*.parquet in it; name a run's directory")
    rows = pa.concat_tables(map(_trained, logged))
    if not rows.num_rows:
        raise LogError(f"{run} has trained no group: all that its rollouts/ hold were dropped")
    chosen = rows.take(list(spaced(range(rows.num_rows), most)))
    return tuple(_group(row) for row in chosen.to_pylist())


def form_of(run: Path) -> Form:
    """`data.prompt.form` of a run directory; the default where it has no configuration."""
    file = run / "config.yaml"
    if not file.exists():
        return Prompt().form
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Prompt.model_validate(config["data"].get("prompt", "answer")).form
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise LogError(f"{file} is no configuration of a run: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise LogError(f"{file} is no configuration of a run: it has no section `data`") from error


def _trained(shard: Path) -> pa.Table:
    try:
        log = ds.dataset(str(shard), format="parquet")
        return log.to_table(columns=list(COLUMNS), filter=ds.field("drop_reason").is_null())
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{shard} cannot be read as a rollout log ({error}); move it away") from error


def _group(row: Mapping[str, Any]) -> LoggedGroup:
    example = Example(row["example_id"], ClipSource(""), row["question"], tuple(row["choices"]), row["answer"])
    rewards = {name: tuple(values) for name, values in row["rewards"]}
    return LoggedGroup(example, tuple(row["completions"]), rewards)
