from pathlib import Path

import pytest

from cluster import launch
from cluster.launch import main


@pytest.mark.heavy
@pytest.mark.parametrize("preset", ["tiny", "small", "qwen2_audio_7b"])
def test_a_dry_run_of_every_preset_prints_the_configuration_and_the_plan(
    preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", preset, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"name: {preset}" in printed
    assert "learner" in printed.split("placement")[1]


def test_an_unknown_key_ends_with_status_2_and_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "tiny", "--dry-run", "learner.learning_rat=1"]) == 2
    assert "learner.learning_rate" in capsys.readouterr().err


def test_what_is_started_again_goes_on_where_the_run_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[bool] = []
    monkeypatch.setattr(launch, "train", lambda *_, resume, **__: began.append(resume))
    monkeypatch.setattr(launch.demo, "resolved", lambda config, *_, **__: config)
    arguments = ["--config", "tiny", "--auto-resume", f"run.dir={tmp_path}", "run.name=r"]
    assert launch.main(arguments) == 0
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").touch()
    assert launch.main(arguments) == 0
    assert launch.main([word for word in arguments if word != "--auto-resume"]) == 0
    assert began == [False, True, False]
