"""What the benchmarks run: the demo, and actors that they configure themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster import demo
from cluster.environment import describe
from cluster.launch import train
from cluster.progress import Reporter
from cluster.run_directory import RunDirectory
from cluster.runs import Run, load
from configs.load import dump_config, load_config
from configs.schema import Config

if TYPE_CHECKING:
    from cluster.workers import Workers


def run_of_demo(keys: Sequence[str], reporter: Reporter, around: AbstractContextManager[object] | None = None) -> Run:
    """The demo with other `key=value`; a finished run of the same configuration and commit is taken as it is.

    Args:
        keys: to change the preset `tiny` by.
        reporter: tells of the run.
        around: is entered for the training.
    """
    config = demo.resolved(load_config("tiny", keys), reporter.say)
    path = RunDirectory.of(config).path
    if not _finished(path, config):
        with around or nullcontext():
            train(config, reporter, fresh=path.exists())
    return load(path)


def _finished(path: Path, config: Config) -> bool:
    """Whether the run at `path` has ended, was configured so, and ran this commit."""
    if not (path / "summary.json").exists():
        return False
    return (path / "config.yaml").read_text() == dump_config(config) and load(path).commit == describe()["git"]


def configured(directory: Path, settings: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of a file with these settings, which is written to `directory`, and of `key=value`."""
    file = directory / "bench.yaml"
    file.write_text(yaml.safe_dump(settings))
    return load_config(str(file), overrides)


async def join(started: Workers) -> None:
    """Have the learner load the engines' model, which is its reference too."""
    await started.learner.join(started.model_path, started.model_path, None)
