import pytest

from cluster.launch import main


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
