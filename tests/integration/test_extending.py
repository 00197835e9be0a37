"""A run in which everything that docs/extending.md shows is at work."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

import pytest
import yaml

from cluster.runs import load
from tests.integration.recordings import Questions, write_jsonl
from tests.integration.runs import finished, write_config
from tests.page_files import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_trains_with_the_files_of_the_page(tmp_path: Path, model: Path, questions: Questions) -> None:
    write_files("extending.md", tmp_path)
    shutil.copytree(questions.folder / "clips", tmp_path / "clips")
    quiz = [
        {
            "file": row["audio"],
            "ask": row["question"],
            "options": dict(zip("ABCD", row["choices"], strict=False)),
            "key": "ABCD"[row["choices"].index(row["answer"])],
        }
        for row in questions.rows()
    ]
    config = write_config(
        tmp_path / "mine.yaml",
        model,
        write_jsonl(tmp_path / "quiz.jsonl", [*quiz, {"file": "clips/none.wav"}]),
        run={"max_steps": 3},
        data={"format": "my_format:quiz", "prompt": yaml.safe_load((tmp_path / "my_prompt.yaml").read_text())},
        rewards=[{"use": "accuracy"}, {"use": "my_rewards:brevity", "args": {"limit": 12}}],
        algorithm={
            "advantage": "my_advantages:from_the_median",
            "surrogate": "my_losses:smooth",
            "ratio": "sampled",
            "max_staleness": 1,
        },
        rollout={"engines": 2, "weight_transfer": "my_transport:InTurn"},
    )
    ended = finished(config)
    run = load(ended.path)
    lines = ended.lines()
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["grad_norm"] > 0 and line["verified_difference"] < 1e-3 for line in lines)
    assert "line 9 left out: plug_in: my_format:quiz raised" in ended.output
    for group in run.rollouts.to_dict("records"):
        expected = [total - median(group["total"]) for total in group["total"]]
        assert list(group["advantages"]) == pytest.approx(expected, abs=1e-6)
        assert "my_rewards:brevity" in dict(group["rewards"])
    assert "Listen. " in run.config["data"]["prompt"]["text"]
