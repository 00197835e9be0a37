"""What TensorBoard and Weights & Biases are told of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import loggers as module
from cluster.loggers import LoggerError, check_loggers, figures, loggers
from configs.schema import Config


def config(**logging: Any) -> Config:
    return Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "logging": logging})


def line(step: int, reward: float) -> dict[str, Any]:
    """Of `metrics.jsonl`, as far as it matters."""
    return {
        "step": step,
        "time": 1.7e9,
        "reward_mean": reward,
        "accuracy": None,
        "seconds": {"forward": 0.5},
        "engine_names": ["engine-0"],
    }


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every figure in event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory)).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_numbers_are_told_by_their_path_and_nothing_else_is() -> None:
    assert figures(line(3, 1.5)) == {"reward_mean": 1.5, "seconds/forward": 0.5}


def test_tensorboard_reads_every_step_and_evaluation_once_also_after_a_resume(tmp_path: Path) -> None:
    with loggers(config(tensorboard=True), tmp_path, 0) as told:
        told.evaluation("base", {"step": 0, "accuracy": 0.25, "accuracy_interval": [0.2, 0.3], "rows": [{}]})
        for step in (1, 2, 3):
            told.line(line(step, step / 4))
    with loggers(config(tensorboard=True), tmp_path, 2) as told:
        told.line(line(3, 8.0))
    found = scalars(tmp_path / "tensorboard")
    assert found["reward_mean"] == [(1, 0.25), (2, 0.5), (3, 8.0)]
    assert found["seconds/forward"][0] == (1, 0.5)
    assert found["eval/base/accuracy"] == [(0, 0.25)]


def test_a_package_that_is_missing_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check_loggers(config())
    with pytest.raises(LoggerError, match=r"logging\.wandb needs the package wandb: .* `pip install wandb`"):
        check_loggers(config(wandb="audio"))
