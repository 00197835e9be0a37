"""The benchmark of scale, on a few devices and without a run of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import scale
from bench.timings_file import write_timings
from cluster.forecast.simulation import simulate
from cluster.forecast.timings import Timings
from cluster.runs import load
from tests.unit.test_timings import PROMPTS, short, write_run

TIMINGS = Timings(
    name="few", step_seconds=0.01, prompt_seconds=0.02, token_seconds=0.001, prompt_tokens=5, groups=((2, 3), (4, 2))
)


@pytest.mark.heavy
def test_a_sweep_tells_every_pair_and_split_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "ENGINES", (1, 2))
    monkeypatch.setattr(scale, "RANKS", (1, 2))
    monkeypatch.setattr(scale, "DEVICES", (2, 3))
    write_timings(TIMINGS, tmp_path / "timings.json")
    files = ["--timings", tmp_path / "timings.json", "--json", tmp_path / "scale.json", "--figure", tmp_path / "a.png"]
    assert scale.main([*map(str, files), "--prompts-per-step", "4"]) == 0
    figures = json.loads((tmp_path / "scale.json").read_text())
    timings, setting = scale.timed_cases(TIMINGS, 4)(2, 1, 1)
    assert figures["completions_per_second_2_1"] == simulate(timings, setting).completions_per_second
    assert (figures["best_engines_of_2"], figures["best_ranks_of_2"]) == (1, 1)
    assert figures["best_engines_of_3"] + figures["best_ranks_of_3"] == 3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_compared_with_a_simulation_of_its_own_engines_and_steps(tmp_path: Path) -> None:
    """The run's lines are ten times as far apart as one simulated step is long."""
    run = load(write_run(tmp_path / "run", short))
    of = run.config["algorithm"] | {"prompts_per_step": PROMPTS}
    run.config["algorithm"] = of
    run.config["rollout"] |= {"max_running": 64, "threads": 1, "engines": 1}
    run.config["learner"] |= {"threads": 1, "micro_batch_tokens": 2048}
    run.config["run"]["max_steps"] = 20
    step = simulate(TIMINGS, scale.setting_of_run(run, 2)).seconds_per_step
    frame = run.metrics
    frame["time"], frame["staleness.0"], frame["learner_busy"] = frame["step"] * 10 * step, PROMPTS, 0.5
    frame["step_seconds"] = 5 * step
    figures = scale.check(TIMINGS, {(1, 0): run, (1, 1): run}, 2)
    assert figures["step_seconds_1_0"] == pytest.approx(10 * step)
    assert figures["error_1_1"] == figures["error_largest"] * -1 == pytest.approx(1 / 10 - 1)
    assert figures["learner_busy_1_0"] == pytest.approx(0.25)
    assert figures["staleness_1_0"] == figures["simulated_staleness_1_0"] == 0


def test_keys_without_a_forecast_to_change_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--timings", "timings.json", "rollout.engines=2"]) == 2
    assert "name one with --config" in capsys.readouterr().err
