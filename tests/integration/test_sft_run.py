"""Supervised fine-tuning by the command line: on recordings with bad rows and clips, broken off, resumed, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.recordings import Questions, write_flawed
from tests.integration.runs import Finished, finished, metrics_lines, write_config

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

SAME = ("loss", "grad_norm", "questions", "answer_tokens", "admitted", "dropped")
"""What a step that is taken again comes to again."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Path:
    folder = tmp_path_factory.mktemp("supervised")
    return write_config(
        folder / "taught.yaml",
        model,
        write_flawed(questions),
        algorithm={"name": "sft", "beta": 0.0},
        checkpoint={"every_steps": 2},
        learner={"schedule": "constant"},
        run={"max_steps": 4, "dir": str(folder / "runs")},
    )


@pytest.fixture(scope="module")
def whole(config: Path) -> Finished:
    """A run without held-out questions, and so without engines."""
    return finished(config)


def test_a_run_without_questions_to_evaluate_starts_no_engine_and_learns(whole: Finished) -> None:
    plan = whole.output.partition("placement")[2].partition("starting engines")[0]
    assert "learner" in plan
    assert "engine" not in plan
    lines = whole.lines()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["trained"] == 16
    assert lines[-1]["dropped"] > 0
    summary = json.loads((whole.path / "summary.json").read_text())
    assert (summary["questions_trained"], summary["completions"], summary["trained"]) == (16, 0, None)


@pytest.mark.slow
@pytest.mark.long
def test_a_resume_takes_the_same_steps_again(whole: Finished, config: Path) -> None:
    checkpoint = whole.path / "checkpoints" / "step_4"
    before, state = whole.lines(), load_file(checkpoint / "trainer" / "master.safetensors")
    shutil.rmtree(checkpoint)
    (whole.path / "summary.json").unlink()
    assert "from step 2" in finished(config, "--resume").output
    again = metrics_lines(whole.path)
    assert [{key: line[key] for key in SAME} for line in again] == [{key: line[key] for key in SAME} for line in before]
    for name, tensor in load_file(checkpoint / "trainer" / "master.safetensors").items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.slow
def test_held_out_questions_are_answered_with_the_weights_before_and_after(config: Path, questions: Questions) -> None:
    """Taught the held-out questions themselves, a random model comes to answer them in the form that it was taught."""
    keys = [f"data.train={questions.test}", f"data.test={questions.test}", "run.name=heard", "run.max_steps=60"]
    finished(config, *keys, "learner.learning_rate=3e-3", "checkpoint.every_steps=0", "evaluate.samples=1")
    figures = {
        name: json.loads((config.parent / "runs" / "heard" / "eval" / f"{name}.json").read_text())
        for name in ("base", "trained")
    }
    assert figures["base"]["format_rate"] == 0
    assert figures["trained"]["format_rate"] > 0.5
    assert figures["trained"]["step"] == 60
