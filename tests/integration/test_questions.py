"""The commands that ask: evaluation on the formats users have, one question by hand, and a run on other weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cluster.asking import as_asked
from cluster.compare import main as compare_command
from cluster.evaluate import main as score_command
from cluster.placement import Node, plan
from cluster.runs import load
from cluster.session import workers
from configs.load import load_config
from configs.schema import Config
from data.types import Clip, ClipSource, Completion, Example, Group, Prompt
from learner.hf import load_tensors
from learner.hf_files import load_processor
from tests.disk_datasets import save_to_disk
from tests.integration.commands import command
from tests.integration.models import hearing_model
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, Finished, finished, write_config
from tests.unit.mmau_script import counted

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

MISSING, BAD = 1, 2
"""Rows of the MMAU file: one whose clip is not there, and one that is no question."""


@dataclass(frozen=True)
class Evaluated:
    """What `cluster.evaluate` printed and wrote."""

    output: str
    result: dict[str, Any]
    folder: Path

    def answers(self) -> dict[str, str]:
        """The greedy completion of each question that was answered, by id."""
        rows = self.result["rows"]
        return {row["id"]: row["completion"] for row in rows if row["completion"] is not None}


def mmau_rows(questions: Questions) -> list[dict[str, Any]]:
    """The held-out questions as MMAU has them: categories of both kinds, a clip that is missing, and a bad row."""
    rows = [
        {
            **{key: row[key] for key in ("id", "question", "choices", "answer", "task")},
            "audio_id": row["audio"],
            "category": ["Reasoning", "Perception"] if number % 2 else "Perception",
            "sub-category": row["sub_category"],
            "dataset": "demo",
        }
        for number, row in enumerate(questions.rows("test"))
    ]
    rows[MISSING]["audio_id"] = "clips/absent.wav"
    rows.insert(BAD, rows[0] | {"id": "bad", "answer": "none of them"})
    return rows


def avqa_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of MMAU as AVQA has them: a video's name, and the answer as an index (none for a bad row)."""
    return [
        {
            "id": row["id"],
            "video_name": row["audio_id"].removesuffix(".wav"),
            "question_text": row["question"],
            "multi_choice": row["choices"],
            "answer": row["choices"].index(row["answer"]) if row["answer"] in row["choices"] else 4,
            "question_relation": "Sound",
            "question_type": row["task"],
        }
        for row in rows
    ]


def on_disk(folder: Path, questions: Questions) -> Path:
    """The training questions as `datasets` saves them, their clips inside."""
    rows = [
        row | {"audio": {"bytes": (questions.folder / row["audio"]).read_bytes(), "path": row["audio"]}}
        for row in questions.rows("train")
    ]
    return save_to_disk(folder, pa.Table.from_pylist(rows))


def evaluate(folder: Path, model: Path, questions: Questions, rows: Sequence[dict[str, Any]], *more: str) -> Evaluated:
    """Evaluate the model on rows that are written as one JSON list, far from their clips."""
    (folder / "questions.json").write_text(json.dumps(rows))
    paths = ("--model", str(model), "--data", "questions.json", "--out", "new/folder/out.json")
    options = ("--audio-dir", str(questions.folder), "--max-tokens", "8", *more)
    with command("cluster.evaluate", *paths, *options, cwd=folder) as started:
        assert started.wait(RUN_SECONDS) == 0, started.output
    written = folder / "new" / "folder"
    names = {"out.json", *(["predictions.json"] if "--predictions" in more else [])}
    assert {path.name for path in written.iterdir()} == names
    return Evaluated(started.output, json.loads((written / "out.json").read_text()), written)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Evaluated:
    """What two engines answer, greedily and sampled."""
    options = ("--samples", "2", "--engines", "2", "--predictions", "new/folder/predictions.json")
    return evaluate(tmp_path_factory.mktemp("mmau"), model, questions, mmau_rows(questions), *options)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Evaluated:
    """What one engine answers to the same questions about each other's clips, the choices in another order."""
    options = ("--shuffled", "--shuffle-choices", "--engines", "1")
    return evaluate(tmp_path_factory.mktemp("shuffled"), model, questions, mmau_rows(questions), *options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, model: Path, other: Path, questions: Questions) -> Finished:
    """A run of one step from other weights than `model.path`, where an older run of its name lay.

    Its questions lie in a dataset on disk with their clips, and are worded and ordered in other ways than by default.
    """
    folder = tmp_path_factory.mktemp("begun")
    (folder / "runs" / "begun").mkdir(parents=True)
    (folder / "runs" / "begun" / "metrics.jsonl").write_text("of the older run\n")
    (folder / "test.json").write_text(json.dumps(mmau_rows(questions)))
    config = write_config(
        folder / "begun.yaml",
        model,
        on_disk(folder / "train", questions),
        run={"max_steps": 1, "init_from": str(other)},
        data={
            "test": "test.json",
            "audio_dir": str(questions.folder),
            "prompt": {"text": "{question} ({choices}) <answer> </answer>", "choices": "letters", "form": "answer"},
            "shuffle_choices": True,
        },
        learner={"learning_rate": 1e-12},
        evaluate={"samples": 1},
    )
    return finished(config, "--fresh")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_model(tmp_path_factory.mktemp("other weights"), seed=1)


def test_mmaus_rows_are_all_in_the_denominator_and_the_answered_stand_beside(
    evaluated: Evaluated, questions: Questions
) -> None:
    result, asked = evaluated.result, len(questions.rows("test"))
    assert (result["questions"], result["answered"], result["bad_rows"]) == (asked + 1, asked - 1, 1)
    assert result["unusable"] == {"clip_missing": 1}
    right = sum(row["correct"] for row in result["rows"])
    assert result["accuracy"] == pytest.approx(right / (asked + 1))
    assert result["accuracy_answered"] == pytest.approx(right / (asked - 1))
    assert sum(part["questions"] for part in result["by_task"].values()) == asked
    assert result["left_out"] == [
        {
            "file": "questions.json",
            "line": None,
            "row": BAD,
            "id": "bad",
            "reason": "answer_not_a_choice",
            "detail": result["left_out"][0]["detail"],
        }
    ]


def test_every_completion_is_kept_with_its_prediction(evaluated: Evaluated, questions: Questions) -> None:
    rows = evaluated.result["rows"]
    assert [row["id"] for row in rows] == [row["id"] for row in questions.rows("test")]
    for number, row in enumerate(rows):
        assert row.keys() >= {"id", "choices", "answer", "task", "sub-category", "difficulty", "recording"}
        assert bool(row["completion"]) == (number != MISSING)
        assert (row["model_prediction"] is None) == (number == MISSING)
        assert len(row["sampled"]) == (0 if number == MISSING else 2)


def test_the_written_predictions_score_as_the_evaluation_by_mmaus_script_and_by_ours(
    evaluated: Evaluated, tmp_path: Path, questions: Questions
) -> None:
    path, out = evaluated.folder / "predictions.json", tmp_path / "scores.json"
    written = json.loads(path.read_text())
    added = {"recording", "difficulty", "model_output", "model_prediction"}
    assert [{key: row[key] for key in row if key not in added} for row in written] == mmau_rows(questions)
    official = counted(written)
    assert len(official) == evaluated.result["answered"]
    assert sum(official) / len(official) == evaluated.result["accuracy_mmau_answered"]
    assert score_command(["--score", str(path), "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores["accuracy"] == evaluated.result["accuracy_mmau"]
    assert scores["accuracy_official"] == evaluated.result["accuracy_mmau_answered"]


@pytest.mark.slow
def test_any_number_of_engines_shares_the_questions(evaluated: Evaluated, shuffled: Evaluated) -> None:
    asked = evaluated.result["questions"] - evaluated.result["bad_rows"]
    assert f"questions: {asked}, engines: 2\n" in evaluated.output
    assert f"questions: {asked}, engines: 1\n" in shuffled.output


def test_samples_are_worth_more_the_more_of_them_there_are(evaluated: Evaluated) -> None:
    result = evaluated.result
    assert result["pass@1"] == result["majority@1"] == result["accuracy_sampled"]
    assert result["pass@2"] >= result["pass@1"]
    assert "pass@4" not in result


@pytest.mark.slow
def test_about_each_others_clips_in_another_order_of_choices_questions_are_answered_otherwise(
    evaluated: Evaluated, shuffled: Evaluated
) -> None:
    assert (shuffled.result["shuffled"], shuffled.result["shuffle_choices"]) == (True, True)
    assert shuffled.result["unusable"] == evaluated.result["unusable"]
    pairs = list(zip(evaluated.result["rows"], shuffled.result["rows"], strict=True))
    assert all(one["recording"] == other["recording"] for one, other in pairs)
    assert all(sorted(one["choices"]) == sorted(other["choices"]) for one, other in pairs)
    assert any(one["choices"] != other["choices"] for one, other in pairs)
    heard = {other["recording"]: other["heard"] for _, other in pairs if other["completion"] is not None}
    assert sorted(heard) == sorted(heard.values())
    assert all(own != other for own, other in heard.items())
    assert shuffled.answers().keys() == evaluated.answers().keys()
    assert shuffled.answers() != evaluated.answers()


@pytest.mark.slow
def test_the_two_evaluations_are_compared_question_by_question(
    evaluated: Evaluated, shuffled: Evaluated, tmp_path: Path
) -> None:
    paths = [str(one.folder / "out.json") for one in (shuffled, evaluated)]
    assert compare_command([*paths, "--out", str(tmp_path / "compared.json")]) == 0
    measures = json.loads((tmp_path / "compared.json").read_text())["measures"]
    assert list(measures) == ["accuracy", "accuracy_mmau"]
    for measure, figures in measures.items():
        assert figures["questions"] == evaluated.result["questions"]
        assert figures["a"] == pytest.approx(shuffled.result[measure])
        assert figures["b"] == pytest.approx(evaluated.result[measure])
        assert 0 <= figures["p_value"] <= 1


def test_the_table_says_how_many_rows_were_bad(evaluated: Evaluated, questions: Questions) -> None:
    assert f"questions.json: row {BAD} (id bad) left out: answer_not_a_choice" in evaluated.output
    asked = len(questions.rows("test"))
    cells = next(re.findall(r"[^\s│]+", line) for line in evaluated.output.splitlines() if re.match(r"\W*all\b", line))
    assert cells[:4] == ["all", str(asked + 1), "1", str(asked - 1)]
    assert "bad rows, counted as wrong: 1" in evaluated.output
    assert "{'clip_missing': 1}" in evaluated.output


@pytest.mark.slow
def test_the_first_rows_of_avqa_asked_about_silence_are_answered_otherwise(
    tmp_path: Path, model: Path, questions: Questions, evaluated: Evaluated
) -> None:
    rows = mmau_rows(questions)
    del rows[MISSING]
    silent = evaluate(tmp_path, model, questions, avqa_rows(rows), "--silent", "--limit", "4")
    assert (silent.result["questions"], silent.result["bad_rows"]) == (4, 1)
    assert silent.result["silent"] is True
    assert "accuracy_sampled" not in silent.result
    answers = silent.answers()
    assert list(answers) == [row["id"] for row in rows[:4] if row["id"] != "bad"]
    assert answers != {name: evaluated.answers()[name] for name in answers}
    assert all(row["recording"].startswith("silence-") for row in silent.result["rows"])


@pytest.mark.slow
def test_one_question_is_answered_as_in_the_evaluation_and_sampled_besides(
    tmp_path: Path, model: Path, questions: Questions, evaluated: Evaluated
) -> None:
    row = questions.rows("test")[0]
    choices = [part for choice in row["choices"] for part in ("--choice", choice)]
    where = ("--model", str(model), str(questions.folder / row["audio"]), row["question"])
    with command("cluster.ask", *where, *choices, "--samples", "3", "--max-tokens", "8", cwd=tmp_path) as started:
        assert started.wait(RUN_SECONDS) == 0, started.output
    said = started.output
    completion = said.partition("\ncompletion  ")[2].partition("\nsampled ")[0]
    assert words(completion) == words(evaluated.answers()[row["id"]])
    assert "\nanswer      " in f"\n{said}"
    assert sum(map(int, re.findall(r"^sampled (\d+)x  ", said, re.MULTILINE))) == 3


@pytest.mark.slow
def test_a_run_starts_from_the_weights_it_is_given(begun: Finished, model: Path, other: Path) -> None:
    kept = dict(load_tensors(str(begun.path / "checkpoints" / "step_1" / "hf")))
    given, named = dict(load_tensors(str(other))), dict(load_tensors(str(model)))
    head = "language_model.lm_head.weight"
    assert not torch.allclose(given[head], named[head], atol=1e-3)
    for name, tensor in given.items():
        assert torch.allclose(kept[name], tensor, atol=1e-9), name
    [line] = begun.lines()
    assert line["kl"] == pytest.approx(0, abs=1e-6)
    assert line["logprob_difference_max"] < 1e-3


@pytest.mark.slow
def test_a_fresh_run_moves_the_older_one_aside(begun: Finished) -> None:
    [older] = [path for path in begun.path.parent.iterdir() if path.name.startswith("begun.")]
    assert (older / "metrics.jsonl").read_text() == "of the older run\n"
    assert [line["step"] for line in begun.lines()] == [1]


@pytest.mark.slow
def test_the_rollout_log_has_the_choices_in_the_order_in_which_they_were_asked(
    begun: Finished, questions: Questions, model: Path
) -> None:
    filed = {row["id"]: row for row in questions.rows("train")}
    tokenizer = load_processor(str(model)).tokenizer
    config = load_config(str(begun.path / "config.yaml"))
    asked = load(begun.path).rollouts
    assert len(asked) == config.algorithm.prompts_per_step
    shuffled = 0
    for row in asked.itertuples():
        choices = filed[row.example_id]["choices"]
        example = Example(row.example_id, ClipSource(""), row.question, tuple(choices), row.answer)
        assert tuple(row.choices) == as_asked(config, example, epoch=0).choices
        assert row.answer == filed[row.example_id]["answer"]
        prompt = " ".join(words(tokenizer.decode(row.prompt_token_ids)))
        listed = zip("ABCD", row.choices, strict=False)
        places = [prompt.index(" ".join(words(f"({letter}) {choice}"))) for letter, choice in listed]
        assert places == sorted(places)
        shuffled += list(row.choices) != choices
    assert shuffled > 0


@pytest.mark.slow
def test_a_run_keeps_its_bad_rows_and_counts_those_held_out_as_wrong(begun: Finished, questions: Questions) -> None:
    [kept] = [json.loads(line) for line in (begun.path / "bad_rows.jsonl").read_text().splitlines()]
    assert (kept["split"], kept["row"], kept["id"], kept["reason"]) == ("test", BAD, "bad", "answer_not_a_choice")
    summary = json.loads((begun.path / "summary.json").read_text())
    assert summary["bad_rows"] == {"train": 0, "validation": 0, "test": 1}
    for name in ("base", "trained"):
        asked = len(questions.rows("test"))
        figures = summary[name]
        assert (figures["questions"], figures["answered"], figures["bad_rows"]) == (asked + 1, asked - 1, 1)


async def test_a_run_that_asks_for_thinking_rewards_its_form(model: Path, nodes: list[Node]) -> None:
    config = Config.model_validate({"model": {"path": str(model)}, "data": {"train": "unused", "prompt": "think"}})
    roles = [role for role in plan(config, nodes) if role.name == "reward"]
    texts = ("<think>It barks.</think><answer>dog</answer>", "<answer>dog</answer>")
    completions = tuple(Completion((1,), text, (0.0,), (0,), "stop") for text in texts)
    example = Example("dog", None, "Which animal?", ("dog", "cat"), "dog")  # type: ignore[arg-type]
    group = Group(Prompt("0-0", example, (1,), Clip("", 1.0, 25), seed=0), completions)
    async with workers(config, nodes, roles, str(model)) as (started, _, _):
        [reward] = started.rollout.rewards
        scored, *_ = await reward.score.remote(group)
    assert scored.rewards == {"accuracy": (1.0, 1.0), "format": (1.0, 0.0)}


def words(text: str) -> list[str]:
    """What a terminal shows of a random model's text in any case."""
    return re.findall(r"\w+", text)
