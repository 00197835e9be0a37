"""Weights & Biases, offline: what a run and its resume have told is in files that `wandb sync` reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.loggers import loggers
from configs.schema import Config

HEADER_BYTES, BLOCK_BYTES = 7, 32 * 1024
FULL, LAST = 1, 4
"""Kinds of a piece that end a record."""


def records(file: Path) -> Iterator[bytes]:
    """The records of a run's file: LevelDB's log format behind seven bytes that say whose it is."""
    data, at, record = file.read_bytes(), HEADER_BYTES, b""
    while at < len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES  # no piece begins there
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        at += HEADER_BYTES + length
        if kind in (FULL, LAST):
            yield record
            record = b""


def told(file: Path) -> list[dict[str, float]]:
    """The lines of a run's history."""
    from wandb.proto import wandb_internal_pb2

    lines = []
    for data in records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
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
