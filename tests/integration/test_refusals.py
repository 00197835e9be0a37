"""What cannot work is refused with one line and exit status 2, before anything is started."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from cluster import ask, evaluate
from cluster.launch import main
from cluster.placement import Node
from tests.integration.commands import command
from tests.integration.recordings import Questions, write_jsonl
from tests.integration.runs import START_SECONDS, write_config


@pytest.fixture
def refuse(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    questions: Questions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Launch with overrides on top of what would work; gives the one line of the refusal."""
    monkeypatch.setattr("cluster.nodes.connected", None)  # calling it would be an error of another kind

    def launch(*overrides: str, config: str = "tiny") -> str:
        works = (f"model.path={model}", f"data.train={questions.train}", "data.validation=null", "data.test=null")
        status = main(["--config", config, *works, f"run.dir={tmp_path}/runs", *overrides])
        captured = capsys.readouterr()
        assert status == 2, captured.out
        assert captured.err.startswith("error: ")
        assert not (tmp_path / "runs").exists()
        return captured.err.removeprefix("error: ").rstrip("\n")

    return launch


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


@pytest.mark.parametrize("command_line", [evaluate.main, ask.main], ids=["evaluate", "ask"])
def test_no_cluster_is_started_to_ask_a_directory_without_a_model(
    command_line, capsys: pytest.CaptureFixture[str], questions: Questions, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("cluster.nodes.connected", None)  # calling it would be an error of another kind
    (tmp_path / "empty").mkdir()
    clip = str(questions.folder / questions.rows("test")[0]["audio"])
    asked = {
        evaluate.main: ("--data", str(questions.test), "--out", str(tmp_path / "out.json")),
        ask.main: (clip, "Which animal is heard?"),
    }
    assert command_line(["--model", f"{tmp_path}/empty", *asked[command_line]]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert f"{tmp_path}/empty" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


def test_a_model_with_a_broken_configuration_is_named(refuse, model: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "config.json").write_text("{")
    message = refuse(f"model.path={broken}")
    assert str(broken) in message
    assert "\n" not in message


def test_a_model_of_another_kind_is_named(refuse, model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    stored = json.loads((other / "config.json").read_text()) | {"model_type": "qwen2"}
    (other / "config.json").write_text(json.dumps(stored))
    assert f"{other}/config.json: model_type is 'qwen2'" in refuse(f"model.path={other}")


def test_weights_that_do_not_fit_the_models_configuration_are_named(refuse, model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["multi_modal_projector.linear.bias"] = torch.zeros(3)
    del tensors["audio_tower.conv1.bias"]
    save_file(tensors, other / "model.safetensors")
    message = refuse(f"model.path={other}")
    assert "missing: audio_tower.conv1.bias; of another shape: multi_modal_projector.linear.bias (3,)" in message


def test_a_port_of_metrics_that_is_taken_is_named(refuse) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refuse(f"metrics.port={port}")
    assert f"metrics.port {port}" in message
    assert "metrics.port=0 takes a free one" in message


def test_a_plan_that_does_not_fit_an_embedded_cluster_is_refused_with_the_mend(refuse) -> None:
    assert "raise cluster.cpus_per_node" in refuse("rollout.engines=9")


def test_a_plan_that_does_not_fit_a_joined_cluster_claims_no_run(
    nodes: list[Node],
    model: Path,
    questions: Questions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    config = write_config(tmp_path / "large.yaml", model, questions.train)
    with command("cluster.launch", "--config", config.name, "rollout.engines=99", cwd=tmp_path) as started:
        assert started.wait(START_SECONDS) == 2, started.output
        assert "error: 101 logical CPUs are needed" in started.output
    assert not (tmp_path / "runs" / "large").exists()


def test_a_resume_and_a_fresh_start_at_once_are_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--resume", "--fresh"])
    assert ended.value.code == 2
    assert "--fresh: not allowed with argument --resume" in capsys.readouterr().err


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
    (tmp_path / "tiny" / "config.yaml").touch()
    overrides = (f"model.path={model}", f"data.train={questions.train}", "data.validation=null", "data.test=null")
    assert main([*overrides, f"run.dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert all(way in message for way in (f"{tmp_path}/tiny", "--resume", "--fresh", "run.name="))
    assert len(message.splitlines()) == 1


def test_a_resume_without_a_run_is_refused(refuse) -> None:
    assert "no run to resume" in refuse("--resume")
