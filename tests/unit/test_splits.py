"""Which split of devices is recommended, and what a dry run says of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cluster.forecast.forecast import Forecast, forecast, lengths_of
from cluster.forecast.hardware import hardware
from cluster.forecast.recommendation import case_of, forecast_timings, recommendation, setting_of, with_split
from cluster.forecast.simulation import Setting, simulate
from cluster.forecast.splits import Case, best_splits, least_seconds, splits
from cluster.forecast.timings import Timings
from cluster.launch import main
from cluster.placement import Node, Role, plan
from configs.load import load_config
from learner.sizes import find_sizes

PRESET = "qwen2_audio_7b"
PAPER = "clip_seconds=10,completion_tokens=64"


def told(*overrides: str, device: str | None = None, gpus: float = 1e9) -> tuple[Forecast, tuple[Role, ...]]:
    config = load_config(PRESET, [*overrides, *([] if gpus else ["cluster.device=cpu"])])
    sizes, roles = find_sizes(config.model.path), plan(config, [Node("any", 1e9, gpus)])
    lengths = lengths_of(config, PAPER)
    return forecast(config, sizes, hardware(device, on_gpu=bool(gpus)), lengths, roles), roles


def case(engines: int, ranks: int) -> Case:
    """A sampled group costs an engine 2 s, and a trained one a rank 6 s, so that a quarter of the devices samples."""
    timings = Timings(name="", prompt_seconds=2, token_seconds=6, prompt_tokens=1, groups=((1,),))
    setting = Setting(
        engines, ranks, prompts_per_step=24, max_staleness=1, max_running=8, steps=12, on_update="keep_kv"
    )
    return timings, setting


def test_all_splits_of_few_devices_are_looked_at_and_some_of_many() -> None:
    assert list(splits(4, engine_devices=1, most_ranks=9)) == [(3, 1), (2, 2), (1, 3)]
    assert list(splits(6, engine_devices=2, most_ranks=3)) == [(2, 1), (2, 2), (1, 3)]
    many = [ranks for _, ranks in splits(64, engine_devices=1, most_ranks=30)]
    assert many == [1, 2, 4, 8, 12, 16, 20, 24, 28, 30]


@pytest.mark.parametrize(("devices", "best"), [(2, (1, 1)), (8, (2, 6)), (16, (4, 12))])
def test_devices_go_where_the_work_is(devices: int, best: tuple[int, int]) -> None:
    found = best_splits(devices, 1, 24, case)
    assert (found[0].engines, found[0].ranks) == best
    assert [one.outcome.seconds_per_step for one in found] == sorted(one.outcome.seconds_per_step for one in found)


def test_what_does_not_fit_is_not_tried() -> None:
    found = best_splits(8, 1, 24, lambda engines, ranks: case(engines, ranks) if ranks < 4 else None)
    assert max(split.ranks for split in found) == 3
    assert best_splits(8, 1, 24, lambda engines, ranks: None) == []


def test_the_least_seconds_are_those_of_the_side_that_has_more_to_do() -> None:
    timings, setting = case(2, 6)
    assert least_seconds(timings, setting) == 24 * 2 / 2 == 24 * 6 / 6
    assert least_seconds(timings, replace(setting, ranks=3)) == 48
    assert least_seconds(timings, replace(setting, max_staleness=0, on_update="drain")) == 48


@pytest.mark.parametrize("overrides", [[], ["learner.ranks=6", "rollout.engines=2"], ["algorithm.beta=0"]])
def test_a_simulated_forecast_takes_the_seconds_that_the_forecast_adds_up(overrides: list[str]) -> None:
    """What is loaded by engines and moved by the control loop is not in the forecast's sum."""
    of, _ = told(*overrides)
    timings = forecast_timings(of)
    seconds = simulate(timings, setting_of(of)).seconds_per_step
    assert seconds == pytest.approx(of.time.seconds + timings.load_seconds, rel=0.01)


@pytest.mark.heavy
def test_a_dry_run_names_the_split_that_is_faster_than_the_one_configured() -> None:
    of, roles = told("algorithm.max_staleness=1", "rollout.engines=7", "learner.ranks=2")
    blank, line = recommendation(of, roles)
    assert blank == ""
    found = re.match(
        r"split of 9 devices: (\d+) engines? and (\d+) ranks? are the fastest in simulation, ([\d.]+) s .* "
        r"7 engines and 2 ranks as configured take ([\d.]+) s",
        line,
    )
    engines, ranks, best, own = int(found[1]), int(found[2]), float(found[3]), float(found[4])
    assert engines + ranks == 9
    assert ranks > 2
    assert best < own
    again, _ = told("algorithm.max_staleness=1", f"rollout.engines={engines}", f"learner.ranks={ranks}")
    assert list(recommendation(again, roles))[1].startswith("split of 9 devices: in simulation none is much faster")


@pytest.mark.heavy
def test_a_split_that_its_devices_cannot_hold_is_left_out() -> None:
    of, roles = told(device="h100,memory_gigabytes=43")
    assert case_of(with_split(of, roles, 7, 1)) is None  # a rank alone needs 42.8 GB and 3 GB are reserved
    assert case_of(with_split(of, roles, 4, 4)) is not None
    of, roles = told(device="h100,host_memory_gigabytes=300")
    assert case_of(with_split(of, roles, 1, 7)) is None  # all ranks on one machine need 321 GB beside their devices
    small, roles = told(device="h100,memory_gigabytes=20")
    assert list(recommendation(small, roles))[1].startswith("no split of 8 devices")


def test_nothing_is_recommended_where_engines_and_ranks_share_cores_or_nothing_is_sampled() -> None:
    assert list(recommendation(*told(gpus=0))) == []
    assert list(recommendation(*told("algorithm.name=sft"))) == []


@pytest.mark.heavy
def test_the_dry_run_ends_with_the_recommendation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", PRESET, "--dry-run", "--assume", PAPER]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith("split of 8 devices: ")
