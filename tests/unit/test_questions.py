"""Which questions a run takes from its files."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.progress import Reporter
from cluster.questions import Questions
from configs.schema import Config


def test_so_many_held_out_questions_are_asked_and_all_others_taken(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    row = {"audio": "a.wav", "question": "What?", "choices": ["a", "b"], "answer": "a"}
    file.write_text("".join(json.dumps({"id": str(number), **row}) + "\n" for number in range(6)))
    splits = dict.fromkeys(("train", "validation", "test"), str(file))
    for held_out, asked in ((None, ["0", "1", "2", "3", "4", "5"]), (3, ["0", "2", "4"])):
        values = {"model": {"path": "m"}, "data": splits, "evaluate": {"held_out": held_out}}
        questions = Questions.of(Config.model_validate(values), Reporter())
        assert [example.id for example in questions.test] == asked
        assert len(questions.train) == len(questions.validation) == 6
        assert (questions.digests()["test"] == questions.digests()["train"]) == (held_out is None)
