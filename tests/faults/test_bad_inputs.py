"""Every kind of broken input costs itself alone: it is told of or counted once, and the run trains on the rest."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.runs import load
from data.audio import read_clip
from data.errors import ClipError
from data.types import ClipSource, Example
from tests.faults import bad_inputs
from tests.faults.bad_inputs import USED
from tests.integration.runs import finished, write_config

pytestmark = pytest.mark.timeout(600)

PROMPTS_PER_STEP = 4
NOBODY = 65534


@dataclass(frozen=True)
class Outcome:
    """What a run made of the corpus."""

    expected: list[dict[str, Any]]
    run: Path
    output: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The entries of `expected` that become something of that kind: `row`, `drop` or `used`."""
        return [entry for entry in self.expected if entry["becomes"].startswith(kind)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Outcome:
    folder = tmp_path_factory.mktemp("bad")
    expected = bad_inputs.write(folder / "corpus")
    used = sum(entry["becomes"] == USED for entry in expected)
    config = write_config(
        folder / "bad.yaml",
        model,
        folder / "corpus" / "questions.jsonl",
        run={"max_steps": used // PROMPTS_PER_STEP},  # once through, but for a few
        algorithm={"prompts_per_step": PROMPTS_PER_STEP, "group_size": 2},
        rollout={"max_model_tokens": 2048, "max_completion_tokens": 4},
    )
    run = finished(config)
    return Outcome(expected, run.path, run.output)


def test_the_corpus_has_all_kinds(outcome: Outcome) -> None:
    kinds = Counter(entry["kind"] for entry in outcome.expected)
    del kinds["good"]
    assert len(kinds) >= 40
    assert set(kinds.values()) == {1}


def test_every_bad_row_is_told_of_once_with_its_line_and_the_reason(outcome: Outcome) -> None:
    found = [json.loads(line) for line in (outcome.run / "bad_rows.jsonl").read_text().splitlines()]
    told = [(row["line"], f"row: {row['reason']}") for row in found]
    assert told == [(entry["line"], entry["becomes"]) for entry in outcome.of("row")]
    assert f"{len(told)} bad rows in all" in outcome.output


def test_every_clip_and_prompt_that_cannot_be_used_is_dropped_and_counted_once_an_epoch(outcome: Outcome) -> None:
    rollouts = load(outcome.run).rollouts
    dropped = rollouts[rollouts["drop_reason"].notna() & rollouts["group_id"].str.startswith("0-")]
    found = {row.example_id: f"drop: {row.drop_reason.partition(':')[0]}" for row in dropped.itertuples()}
    expected = {entry["id"]: entry["becomes"] for entry in outcome.of("drop")}
    assert found.items() <= expected.items()
    assert len(found) == len(dropped) >= 0.7 * len(expected)  # the run ends before the epoch does
    summary = json.loads((outcome.run / "summary.json").read_text())
    ledger = summary["ledger"]
    assert ledger["admitted"] == ledger["trained"] + ledger["dropped"]
    assert ledger["in_flight"] == 0


def test_the_run_trains_on_whatever_can_be_heard_and_read(outcome: Outcome) -> None:
    rollouts = load(outcome.run).rollouts
    trained = rollouts[rollouts["drop_reason"].isna() & rollouts["group_id"].str.startswith("0-")]
    usable = {entry["id"] for entry in outcome.of(USED)}
    assert set(trained["example_id"]) <= usable
    assert len(trained) >= 0.7 * len(usable)


def test_special_tokens_in_the_text_of_users_are_text(model: Path) -> None:
    from data.prompts import AUDIO_TOKEN, END_OF_TURN, PromptEncoder
    from learner.hf_files import load_processor

    processor = load_processor(str(model))
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
    vocabulary = processor.tokenizer.get_vocab()
    plain = encoder.encode(Example("plain", ClipSource("x"), "What?", ("a", "b"), "a"))
    special = [kind for kind in bad_inputs.rows() if kind.name.startswith("special tokens")]
    assert len(special) > 1
    for kind in special:
        row = bad_inputs.QUESTION | kind.row
        ids = encoder.encode(Example("e", ClipSource("x"), row["question"], tuple(row["choices"]), row["answer"]))
        for token in (AUDIO_TOKEN, END_OF_TURN, "<|im_start|>", "<|audio_bos|>"):
            assert ids.count(vocabulary[token]) == plain.count(vocabulary[token]), token


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; as one, the run itself tries this")
def test_a_clip_that_may_not_be_read_is_named_to_a_user_without_rights() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        clip = Path(folder) / "secret.wav"
        bad_inputs.without_permission(clip)
        told, tell = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                read_clip(ClipSource(str(clip)), 30, 0.1)
            except ClipError as error:
                os.write(tell, f"{error.reason} {error}".encode())
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        os.close(tell)
        with os.fdopen(told) as answer:
            text = answer.read()
    assert text.startswith(f"unreadable {clip}: ")
    assert "Permission denied" in text
