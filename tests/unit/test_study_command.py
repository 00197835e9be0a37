"""`cluster.study` around runs: what is trained, taken as it is, refused or asked again. Nothing is really trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import study
from cluster.evaluation.scoring import Answered, score
from cluster.run_directory import RunDirectory
from configs.schema import Config
from data.types import ClipSource, Example

pytestmark = pytest.mark.heavy  # most tests sum up a study

STUDY = """
title: Mine
config: mine.yaml
steps: 2
full_steps: 4
seeds: [0, 1]
arms:
  sft: {title: SFT, keys: {algorithm.name: sft}}
  think: {title: Thinking, keys: {data.prompt: think}, seeds: [0], needs_format: true}
compare: [[sft, base]]
"""
ROW = {"id": "q1", "audio": "a.wav", "question": "What?", "choices": ["dog", "cat"], "answer": "dog"}


class Machine:
    """Stands in for engines and learner; knows what it was asked to do."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.asked = 0
        self.commit = "c0ffee"

    def train(self, config: Config, reporter: Any, resume: bool, fresh: bool) -> None:
        run = RunDirectory.of(config)
        if resume and run.finished(config.run.max_steps) is not None:
            return
        self.trained.append(config.run.name)
        run, _ = RunDirectory.resume(config) if resume else (RunDirectory.create(config, fresh), None)
        steps = config.run.max_steps
        run.append_metrics({"step": steps, "validation_accuracy": 0.5})
        run.write_json("environment.json", {"git": self.commit})
        run.write_evaluation("trained", score(self.answers()))
        counts = {"questions_trained": 2, "completions": 0, "tokens": 9, "train_seconds": 1.0}
        run.write_json("summary.json", {"steps": steps, "ledger": {"admitted": 2}, **counts})
        run.close()

    def ask(self, config: Config, examples: Sequence[Example], reporter: Any, samples: int) -> list[Answered]:
        self.asked += 1
        return self.answers()

    @staticmethod
    def answers() -> list[Answered]:
        example = Example("q1", ClipSource("a.wav"), "What?", ("dog", "cat"), "dog", task="sound")
        return [Answered(example, "a", "<answer>dog</answer>", ("<answer>cat</answer>",) * 2)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "train", machine.train)
    monkeypatch.setattr(study, "ask", machine.ask)
    for plot in ("plot_learning", "plot_tasks"):
        monkeypatch.setattr(study.study_report, plot, lambda found, path: path.touch())
    monkeypatch.setattr(study, "describe", lambda: {"git": machine.commit})
    Path("questions.jsonl").write_text(json.dumps(ROW))
    Path("model").mkdir()
    Path("mine.yaml").write_text(
        "model: {path: model}\ndata: {train: questions.jsonl, test: questions.jsonl}\nevaluate: {samples: 2}\n"
    )
    Path("study.yaml").write_text(STUDY)
    return machine


def run(*arguments: str) -> int:
    return study.main(["--config", "study.yaml", "--out", "out", *arguments])


def found() -> dict[str, Any]:
    return json.loads(Path("out/study.json").read_text())  # type: ignore[no-any-return]


def test_what_is_finished_is_taken_as_it_is_and_a_base_is_asked_once(machine: Machine) -> None:
    assert run() == 0
    assert (machine.trained, machine.asked) == (["sft-seed0", "sft-seed1"], 3)
    assert found()["untestable"] == {"Thinking": [0]}
    assert run() == 0
    assert (machine.trained, machine.asked) == (["sft-seed0", "sft-seed1"], 3)


def test_a_part_leaves_what_is_there_in_the_findings(machine: Machine) -> None:
    run("--arms", "sft", "--seeds", "1")
    assert machine.trained == ["sft-seed1"]
    assert found()["arms"]["sft"]["seeds"].keys() == {"1"}
    run("--arms", "sft", "--seeds", "0")
    assert found()["arms"]["sft"]["seeds"].keys() == {"0", "1"}
    run("--arms", "think")
    assert found()["arms"]["sft"]["seeds"].keys() == {"0", "1"}


def test_a_run_of_another_length_is_refused_and_trained_again_where_that_is_asked_for(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--full", "--arms", "sft")
    machine.trained.clear()
    assert run("--arms", "sft") == 2
    assert "out/sft-seed0 was trained with another run.max_steps" in capsys.readouterr().err
    assert run("--arms", "sft", "--fresh") == 0
    assert machine.trained == ["sft-seed0", "sft-seed1"]
    assert found()["arms"]["sft"]["steps"] == 2


def test_a_run_of_another_configuration_is_refused_by_key(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    run("--arms", "sft")
    Path("study.yaml").write_text(
        STUDY.replace("algorithm.name: sft", "algorithm.name: sft, learner.micro_batch_tokens: 99")
    )
    assert run("--arms", "sft") == 2
    assert "another learner.micro_batch_tokens: its arm would not be what the study says" in capsys.readouterr().err


def test_runs_of_an_older_commit_are_told_and_trained_again_where_that_is_asked_for(machine: Machine) -> None:
    run("--arms", "sft", "--seeds", "0")
    machine.commit = "decade"
    run("--arms", "sft")
    assert found()["commits"] == ["c0ffee", "decade"]
    run("--arms", "sft", "--fresh")
    assert machine.trained == ["sft-seed0", "sft-seed1", "sft-seed0"]
    assert found()["commits"] == ["decade"]


@pytest.mark.parametrize("changed", ["weights", "questions", "samples"])
def test_the_model_before_training_is_asked_again_where_its_answers_may_differ(machine: Machine, changed: str) -> None:
    run("--arms", "sft", "--seeds", "0")
    if changed == "weights":
        Path("model/model.safetensors").write_text("new")
    elif changed == "questions":
        Path("questions.jsonl").write_text(json.dumps(ROW | {"question": "Which?"}))
    else:
        Path("study.yaml").write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1]\nkeys: {evaluate.samples: 3}"))
    run("--arms", "sft", "--seeds", "0", "--fresh")
    assert machine.asked == 2


def test_a_run_that_was_killed_before_its_configuration_was_written_begins_again(machine: Machine) -> None:
    Path("out/sft-seed0").mkdir(parents=True)
    assert run("--arms", "sft", "--seeds", "0") == 0
    assert machine.trained == ["sft-seed0"]


def test_what_the_study_does_not_have_is_refused_by_name(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--arms", "ppo", "--seeds", "7") == 2
    error = capsys.readouterr().err
    assert "--arms: ppo is no arm; there are sft, think" in error
    assert "--seeds: the study has no 7; it has 0, 1" in error
