"""A small question file of real recordings, as a user would write one: JSONL beside a folder of WAV files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import soundfile

from cluster import demo
from configs.schema import Config

MIN_SECONDS = 1.2
"""Shortest recording that is taken, so that tests may cut all clips to one second."""


@dataclass(frozen=True)
class Questions:
    """Files of questions about recordings of speech, music and other sounds."""

    folder: Path
    train: Path
    validation: Path
    test: Path

    def rows(self, split: str = "train") -> list[dict[str, Any]]:
        """The rows of one of the files."""
        return [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text().splitlines()]


def write_questions(folder: Path, train: int = 8, validation: int = 4, test: int = 6) -> Questions:
    """Write so many questions of each split of the demo set, which is built first where it is missing."""
    settings = {f"{split}": f"demo:{split}" for split in ("train", "validation", "test")}
    made = demo.resolved(Config.model_validate({"model": {"path": "unused"}, "data": settings}), print).data
    (folder / "clips").mkdir(parents=True)
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        rows = [_row(folder, row) for row in _chosen(Path(getattr(made, split) or ""), count)]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return Questions(folder, *(folder / f"{split}.jsonl" for split in ("train", "validation", "test")))


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Rows as JSON, a line each; text stands as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def _chosen(parquet: Path, count: int) -> list[dict[str, Any]]:
    """Questions about different recordings, the tasks in turn."""
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for row in pq.ParquetFile(parquet).iter_batches(batch_size=200).__next__().to_pylist():
        if soundfile.info(io.BytesIO(row["audio"]["bytes"])).duration >= MIN_SECONDS:
            by_task.setdefault(row["task"], {})[row["sha256"]] = row
    queues = [list(rows.values()) for _, rows in sorted(by_task.items())]
    in_turn = [queue[place] for place in range(count) for queue in queues if place < len(queue)]
    return in_turn[:count]


def _row(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    name = f"clips/{row['id']}.wav"
    soundfile.write(folder / name, samples, rate)
    kept = {key: row[key] for key in ("id", "question", "choices", "answer", "task", "sub_category")}
    return kept | {"audio": name}


def write_flawed(questions: Questions) -> Path:
    """The training questions with rows that are no examples and clips that cannot be used among them."""
    good = questions.rows()
    clips = questions.folder / "clips"
    (clips / "empty.wav").write_bytes(b"")
    (clips / "corrupt.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVE, but no more of it")
    soundfile.write(clips / "too-short.wav", [0.1] * 160, 16_000)
    bad_clips = [
        good[0] | {"id": f"clip-{name}", "audio": f"clips/{name}.wav"}
        for name in ("missing", "empty", "corrupt", "too-short")
    ]
    without_question = {key: value for key, value in good[0].items() if key != "question"} | {"id": "without-question"}
    bad_rows = ["{this is not JSON", good[0] | {"id": "wrong-answer", "answer": "none"}, good[0], without_question]
    return write_jsonl(questions.folder / "flawed.jsonl", [*good, *bad_clips, *bad_rows])
