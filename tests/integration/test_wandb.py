"""Weights & Biases, offline: what a run and its resume have told is in files that `wandb sync` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.loggers import loggers
from configs.schema import Config


def told(file: Path) -> list[dict[str, float]]:
    """The lines of a run's history."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, lines = DataStore(), []
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            lines.append({key: value for key, value in items.items() if not key.startswith("_")})
    return lines


def test_an_offline_run_and_its_resume_are_one_run_with_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {"model": {"path": "m"}, "data": {"train": "t"}, "logging": {"wandb": "audio"}}
    config = Config.model_validate(settings)
    with loggers(config, tmp_path, 0) as first:
        first.line({"step": 1, "reward_mean": 0.5, "seconds": {"forward": 0.25}})
        first.line({"step": 2, "reward_mean": 0.75})
    with loggers(config, tmp_path, 1) as resumed:
        resumed.line({"step": 2, "reward_mean": 1.0})
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len({file.name for file in files}) == 1  # a run's id names its file
    assert [line for file in files for line in told(file)] == [
        {"step": 1, "reward_mean": 0.5, "seconds/forward": 0.25},
        {"step": 2, "reward_mean": 0.75},
        {"step": 2, "reward_mean": 1.0},
    ]
