"""Read what a run left, as data frames: `from cluster.runs import load; load("runs/tiny").metrics.plot("step")`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from data.step_files import shards


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return yaml.safe_load((self.path / "config.yaml").read_text())  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """`metrics.jsonl`: a row a step; nested values as columns with dots (`seconds.sample`)."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return pd.json_normalize([json.loads(line) for line in lines])

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """`rollouts/*.parquet`: a row a group, trained or dropped, in the order of the steps."""
        read = [pd.read_parquet(shard) for shard in shards(self.path / "rollouts")]
        return pd.concat(read, ignore_index=True) if read else pd.DataFrame()

    @cached_property
    def evaluations(self) -> dict[str, pd.DataFrame]:
        """`eval/*.json` by name (`base`, `trained`, `validation_step_50`): a row a question."""
        files = sorted((self.path / "eval").glob("*.json"))
        return {file.stem: pd.DataFrame(json.loads(file.read_text())["rows"]) for file in files}

    @cached_property
    def commit(self) -> str | None:
        """Of the code that the run began with; None where that was no checkout."""
        return json.loads((self.path / "environment.json").read_text())["git"]  # type: ignore[no-any-return]

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """`summary.json`, or None while the run goes on."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None


def load(path: str | Path) -> Run:
    """The run at `path`; raises FileNotFoundError where there is none."""
    directory = Path(path)
    if not (directory / "config.yaml").exists():
        raise FileNotFoundError(f"{directory} holds no run: config.yaml is missing")
    return Run(directory)
