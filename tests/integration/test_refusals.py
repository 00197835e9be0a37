"""What cannot work is refused with one line and exit status 2, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from cluster.launch import main
from tests.integration.recordings import Questions, write_jsonl


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], model: Path, questions: Questions, tmp_path: Path):
    """Launch with overrides on top of what would work; gives the one line of the refusal."""
    clusters = ray.is_initialized()

    def launch(*overrides: str, config: str = "tiny") -> str:
        works = (f"model.path={model}", f"data.train={questions.train}", "data.validation=null", "data.test=null")
        status = main(["--config", config, *works, f"run.dir={tmp_path}/runs", *overrides])
        captured = capsys.readouterr()
        assert status == 2, captured.out
        assert captured.err.startswith("error: ")
        assert ray.is_initialized() == clusters
        assert not (tmp_path / "runs").exists()
        return captured.err.removeprefix("error: ").rstrip("\n")

    return launch


def test_an_unknown_key_is_named_with_the_key_that_was_meant(refuse) -> None:
    message = refuse("learner.learning_rat=1e-5")
    assert "learner.learning_rat" in message
    assert "learning_rate" in message


def test_a_configuration_that_does_not_exist_is_named(refuse) -> None:
    assert "nowhere.yaml" in refuse(config="nowhere.yaml")


def test_a_directory_without_a_model_is_named(refuse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refuse(f"model.path={tmp_path}/empty")
    assert f"{tmp_path}/empty" in message
    assert "\n" not in message


def test_a_model_directory_that_does_not_exist_is_named(refuse, tmp_path: Path) -> None:
    message = refuse(f"model.path={tmp_path}/absent")
    assert f"{tmp_path}/absent" in message
    assert "\n" not in message


def test_a_model_with_a_broken_configuration_is_named(refuse, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "config.json").write_text("{")
    message = refuse(f"model.path={broken}")
    assert str(broken) in message
    assert "\n" not in message


def test_a_file_of_questions_that_does_not_exist_is_named(refuse, tmp_path: Path) -> None:
    message = refuse(f"data.train={tmp_path}/absent.jsonl")
    assert f"{tmp_path}/absent.jsonl" in message
    assert "data.train" in message
    assert "\n" not in message


def test_a_file_whose_only_row_has_no_good_answer_is_named_with_the_row(
    refuse, questions: Questions, tmp_path: Path
) -> None:
    row = questions.rows()[0] | {"answer": "none of these"}
    path = write_jsonl(tmp_path / "answers.jsonl", [row])
    message = refuse(f"data.train={path}")
    assert str(path) in message
    assert "line 1" in message
    assert "none of these" in message
    assert "\n" not in message


def test_a_plug_in_reward_that_does_not_exist_is_named(refuse) -> None:
    message = refuse("rewards=[{use: my_rewards_that_are_not_there:reward}]")
    assert "my_rewards_that_are_not_there" in message
    assert "\n" not in message


def test_a_run_that_exists_is_refused_with_the_ways_on(
    model: Path, questions: Questions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny").mkdir()
    overrides = (f"model.path={model}", f"data.train={questions.train}", "data.validation=null", "data.test=null")
    assert main([*overrides, f"run.dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert all(way in message for way in (f"{tmp_path}/tiny", "--resume", "--fresh", "run.name="))
    assert len(message.splitlines()) == 1


def test_a_resume_without_a_run_is_refused(refuse) -> None:
    assert "no run to resume" in refuse("--resume")
