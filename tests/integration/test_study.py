"""A study by the command line: broken off after one arm, gone on with, and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cluster.study import main
from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a busy machine starts an engine in minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_config(
        folder / "all.yaml",
        model,
        questions.train,
        data={"validation": str(questions.validation), "test": str(questions.test)},
        evaluate={"every_steps": 2, "questions": 3, "samples": 2, "silent": True},
        algorithm={"beta": 0.0},
        run={"max_steps": 4},
    )
    study = {
        "title": "A small study",
        "config": str(folder / "all.yaml"),
        "seeds": [0],
        "steps": 2,
        "full_steps": 4,
        "arms": {
            "sft": {"title": "SFT", "keys": {"algorithm.name": "sft"}},
            "grpo_silent": {"title": "GRPO on silence", "keys": {"data.silent": True}},
            "grpo_think": {
                "title": "GRPO, thinking",
                "keys": {"data.prompt": "think", "rollout.max_completion_tokens": 4},
                "needs_format": True,
            },
        },
        "compare": [["sft", "base"], ["grpo_silent", "sft"]],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


def run(folder: Path, *arguments: str) -> str:
    with command("cluster.study", "--config", "study.yaml", "--out", "out", *arguments, cwd=folder) as started:
        assert started.wait(2 * RUN_SECONDS) == 0, started.output
        return started.output


def test_a_dry_run_names_the_runs_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "dry"
    assert main(["--config", str(folder / "study.yaml"), "--out", str(out), "--dry-run"]) == 0
    assert "sft-seed0" in capsys.readouterr().out
    assert not out.exists()


def test_a_study_goes_on_where_it_was_broken_off_and_tells_what_cannot_be_tested(folder: Path) -> None:
    run(folder, "--arms", "sft")
    metrics = folder / "out" / "sft-seed0" / "metrics.jsonl"
    written = metrics.stat().st_mtime_ns
    output = run(folder)
    assert metrics.stat().st_mtime_ns == written
    assert "finished" in output
    found = json.loads((folder / "out" / "study.json").read_text())
    assert list(found["arms"]) == ["sft", "grpo_silent"]
    assert found["untestable"] == {"GRPO, thinking": [0]}
    assert {arm["questions_trained"] for arm in found["arms"].values()} == {8}
    assert (found["arms"]["sft"]["completions"], found["arms"]["grpo_silent"]["completions"]) == (0, 32)
    assert [(pair["first"], pair["second"]) for pair in found["comparisons"]] == [
        ("sft", "base"),
        ("grpo_silent", "sft"),
    ]
    page = (folder / "out" / "study.md").read_text()
    assert "# A small study, in its short form" in page
    assert (folder / "out" / "learning.png").stat().st_size > 0
