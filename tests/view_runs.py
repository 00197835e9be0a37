"""Runs as the viewer finds them, made by hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml

from actors.log import SCHEMA

HOSTILE = '<script>alert(1)</script> <|AUDIO|> & "quoted"'
"""A question that must never be more than text."""


def tone(seconds: float = 1.0, hertz: float = 440.0) -> bytes:
    """A WAV file."""
    buffer = io.BytesIO()
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(buffer, samples, 16_000, format="WAV")
    return buffer.getvalue()


def group(
    number: int, step: int, completions: Sequence[str] = ("<answer>dog</answer>", "cat"), **changed: Any
) -> dict[str, Any]:
    """A row of the log: two tokens a completion, the learner 0.1 from the engine at the first of each."""
    size = len(completions)
    row = {
        "group_id": f"0-{number}",
        "step": step,
        "example_id": f"e{number}",
        "audio_sha256": hashlib.sha256(tone()).hexdigest(),
        "audio_seconds": 1.0,
        "question": f"Question {number}?",
        "choices": ["dog", "cat"],
        "answer": "dog",
        "task": "sound",
        "engine": "engine-0",
        "context_version": step - 1,
        "prompt_token_ids": [1, 2],
        "completions": list(completions),
        "token_ids": [[3, 4]] * size,
        "logprobs": [[-1.0, -2.0]] * size,
        "learner_logprobs": [[-1.1, -2.0]] * size,
        "versions": [[step - 1, step - 1]] * size,
        "rewards": [("accuracy", [float("dog" in text) for text in completions])],
        "total": [float("dog" in text) for text in completions],
        "advantages": [0.5, -0.5] * (size // 2),
        "finish_reasons": ["stop"] * size,
        "drop_reason": None,
    }
    return row | changed


def write_shard(run: Path, step: int, rows: Sequence[Mapping[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    """One step of the log."""
    path = run / "rollouts" / f"step_{step:06d}.parquet"
    pq.write_table(pa.Table.from_pylist([*rows], schema), path)
    return path


def line(step: int, **changed: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    return {
        "step": step,
        "time": 1_000.0 + 10 * step,
        "step_seconds": 10.0,
        "reward_mean": 0.1 * step,
        "accuracy": 0.05 * step,
        "kl": 0.01,
        "seconds": {"sample": 6.0, "forward": 4.0},
        "rewards": {"accuracy": 0.05 * step},
        "admitted": 4 * step,
        "trained": 4 * step,
        "dropped": 0,
        "in_flight": 0,
        "dropped_by_reason": {},
    } | changed


def write_line(run: Path, step: int, **changed: Any) -> None:
    """One step more."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(step, **changed)) + "\n")


def question(number: int, right: bool, **changed: Any) -> dict[str, Any]:
    """A row of an evaluation."""
    said = "dog" if right else "cat"
    return {
        "id": f"q{number}",
        "question": f"Held out {number}?",
        "choices": ["dog", "cat"],
        "answer": "dog",
        "task": "sound",
        "recording": f"{number:064x}" if number else hashlib.sha256(tone()).hexdigest(),
        "completion": f"<answer>{said}</answer>",
        "model_prediction": said,
        "correct": float(right),
        "correct_mmau": float(right),
        "problem": "",
    } | changed


def write_evaluation(run: Path, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """`eval/NAME.json`."""
    accuracy = sum(row["correct"] for row in rows) / len(rows)
    figures = {
        "step": step,
        "questions": len(rows),
        "accuracy": accuracy,
        "accuracy_interval": [accuracy / 2, (1 + accuracy) / 2],
        "format_rate": 1.0,
        "chance": 0.5,
        "by_task": {"sound": {"questions": len(rows), "accuracy": accuracy, "accuracy_interval": [0.0, 1.0]}},
    }
    (run / "eval" / f"{name}.json").write_text(json.dumps(figures | {"rows": [*rows]}))


def write_run(folder: Path, name: str = "run", steps: int = 3) -> Path:
    """A run of a few steps, with its log, two evaluations and the recording that all its questions are about."""
    run = folder / name
    for directory in ("rollouts", "eval", "clips", "checkpoints"):
        (run / directory).mkdir(parents=True)
    config = {
        "run": {"name": name, "max_steps": 10, "seed": 0},
        "model": {"path": str(folder / "model")},
        "algorithm": {"name": "grpo"},
        "data": {
            "train": str(folder / "gone.jsonl"), "validation": None, "test": None, "audio_dir": None, "format": "auto",
            "prompt": "answer", "max_seconds": 30.0, "min_seconds": 0.05, "channels": "mean",
        },
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (run / "environment.json").write_text(json.dumps({"python": "3.11", "git": "a" * 40, "packages": {"ray": "2"}}))
    (run / "clips" / hashlib.sha256(tone()).hexdigest()).write_bytes(tone())
    for step in range(1, steps + 1):
        write_line(run, step)
        write_shard(run, step, [group(10 * step + number, step) for number in range(4)])
    write_evaluation(run, "base", 0, [question(number, right=number < 2) for number in range(6)])
    write_evaluation(run, "trained", steps, [question(number, right=number in (0, 3, 4)) for number in range(6)])
    return run
