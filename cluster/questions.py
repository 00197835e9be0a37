"""The questions of a run, by split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import bad_rows
from cluster.progress import Reporter
from configs.schema import Config
from data.formats import load_examples
from data.order import spaced
from data.types import Example

SPLITS = ("train", "validation", "test")


@dataclass(slots=True)
class Questions:
    """The examples of a run."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    bad: tuple[Mapping[str, Any], ...] = ()
    """Rows of the files that are none, as `bad_rows.jsonl` keeps them, each with its `split`."""

    @classmethod
    def of(cls, config: Config, reporter: Reporter) -> Questions:
        """Those of the configuration's files; bad rows are reported and kept apart."""
        loaded: dict[str, Any] = {}
        left_out: list[dict[str, Any]] = []
        for split in SPLITS:
            path = getattr(config.data, split)
            if path is None:
                continue
            result = load_examples(path, config.data.audio_dir, config.data.format)
            loaded[split] = spaced(result.examples, config.evaluate.held_out if split == "test" else None)
            left_out += ({"split": split, **row} for row in bad_rows.report(path, result.bad, reporter))
        return cls(**loaded, bad=tuple(left_out))

    def bad_rows(self) -> dict[str, int]:
        """How many there are, by split."""
        return {split: sum(row["split"] == split for row in self.bad) for split in SPLITS}

    def digests(self) -> dict[str, str]:
        """A hash of what is asked, by split: a resume goes on with the same questions in the same order."""
        return {split: digest(getattr(self, split)) for split in SPLITS}


def digest(examples: Sequence[Example]) -> str:
    """A hash of what is asked, in its order."""
    asked = [(example.id, example.question, example.choices, example.answer) for example in examples]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
