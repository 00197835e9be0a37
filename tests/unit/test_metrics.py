"""What `/metrics` of the control loop serves, and the page that lists it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster import metrics_reference
from cluster.metrics import (
    COUNTERS,
    GAUGES,
    LIVE_COUNTERS,
    LIVE_GAUGES,
    OFF_POLICY,
    REWARD_STEPS,
    Metrics,
    MetricsError,
)
from cluster.metrics_reference import PAGE, controller_rows


def line(**values: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl`: every exported value 1, but for those given."""
    ones = dict.fromkeys((*GAUGES, *COUNTERS), 1.0)
    labelled = {
        "dropped_by_reason": {"clip_missing": 2},
        "completions_dropped": {"reward_none": 3},
        "rewards": {"format": 0.75},
        "seconds": {"sample": 0.5},
        "staleness": {"0": 3},
        "off_policy": dict.fromkeys(OFF_POLICY, 0.5),
    }
    return {**ones, **labelled, **values}


def scraped(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of every sample by name, as Prometheus reads them over HTTP."""
    port = metrics.serve("127.0.0.1", 0)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tuple[dict[str, str], float]]]:
    metrics = Metrics("my run")
    metrics.watch(lambda: dict.fromkeys((*LIVE_GAUGES, *LIVE_COUNTERS), 2.0))
    for _ in range(REWARD_STEPS):
        metrics.record(line(admitted=0, trained=0, dropped_by_reason={}, completions_dropped={}))
    metrics.record(line(admitted=4, trained=2, validation_accuracy=0.25))
    changed = {"dropped_by_reason": {"clip_missing": 3}, "completions_dropped": {"reward_none": 1}}
    metrics.record(line(admitted=7, trained=4, validation_accuracy=None, **changed))
    return scraped(metrics)


def test_counters_hold_the_totals_of_the_last_line(samples: dict[str, Any]) -> None:
    assert samples["auricle_groups_admitted_total"] == [({"run": "my run"}, 7.0)]
    assert samples["auricle_groups_trained_total"] == [({"run": "my run"}, 4.0)]
    assert samples["auricle_groups_dropped_total"] == [({"run": "my run", "reason": "clip_missing"}, 3.0)]


def test_completions_that_were_dropped_are_added_up_over_the_steps(samples: dict[str, Any]) -> None:
    assert samples["auricle_completions_dropped_total"] == [({"run": "my run", "reason": "reward_none"}, 4.0)]


def test_a_gauge_keeps_its_value_where_a_line_has_none(samples: dict[str, Any]) -> None:
    assert samples["auricle_validation_accuracy_ratio"] == [({"run": "my run"}, 0.25)]
    assert samples["auricle_phase_seconds"] == [({"run": "my run", "phase": "sample"}, 0.5)]


def test_a_gauge_is_absent_until_it_has_a_value() -> None:
    metrics = Metrics("new")
    metrics.record(line(validation_accuracy=None))
    assert "auricle_validation_accuracy_ratio" not in scraped(metrics)


def test_a_gauge_of_steps_goes_where_a_line_has_none_of_it() -> None:
    metrics = Metrics("r")
    metrics.record(line(kl=0.25))
    assert scraped(metrics)["auricle_kl_nats"] == [({"run": "r"}, 0.25)]
    metrics.close()
    metrics.record(line(kl=None))
    assert "auricle_kl_nats" not in scraped(metrics)


def test_what_a_resume_has_behind_it_is_no_increase() -> None:
    metrics = Metrics("r")
    metrics.begin_with({"admitted": 100, "trained": 90, "dropped": 10, "in_flight": 0}, {"clip_missing": 10})
    assert scraped(metrics)["auricle_groups_dropped_total"] == [({"run": "r", "reason": "clip_missing"}, 0.0)]
    metrics.close()
    metrics.record(line(admitted=104, trained=93, dropped_by_reason={"clip_missing": 11}))
    found = scraped(metrics)
    assert found["auricle_groups_admitted_total"] == [({"run": "r"}, 4.0)]
    assert found["auricle_groups_trained_total"] == [({"run": "r"}, 3.0)]
    assert found["auricle_groups_dropped_total"] == [({"run": "r", "reason": "clip_missing"}, 1.0)]


def test_the_best_reward_is_the_best_mean_of_steps_on_end() -> None:
    metrics = Metrics("r")
    for reward in [9.0, *[1.0] * (REWARD_STEPS - 2)]:
        metrics.record(line(reward_mean=reward))
    assert "auricle_reward_best_mean" not in scraped(metrics)
    metrics.close()
    for reward in [1.0, *[0.0] * REWARD_STEPS]:
        metrics.record(line(reward_mean=reward))
    [(_, best)] = scraped(metrics)["auricle_reward_best_mean"]
    assert best == pytest.approx((9 + REWARD_STEPS - 1) / REWARD_STEPS)


@pytest.mark.heavy
def test_a_port_that_is_taken_is_named_with_the_mend_and_free_again_after_the_end() -> None:
    first, second = Metrics("first"), Metrics("second")
    port = first.serve("127.0.0.1", 0)
    with pytest.raises(MetricsError, match=rf"metrics\.port {port} .*in use.*metrics\.port=0 takes a free one"):
        second.serve("127.0.0.1", port)
    first.close()
    assert second.serve("127.0.0.1", port) == port
    second.close()


def test_the_page_names_exactly_what_is_served(samples: dict[str, Any]) -> None:
    served = {
        name: set(found[0][0])
        for name, found in samples.items()
        if not name.endswith("_created") and not name.startswith("process_")
    }
    assert {name: set(labels.split(", ")) for name, _, labels, _, _ in controller_rows()} == served


def test_what_has_to_be_known_between_steps_is_asked_for_at_each_scrape() -> None:
    metrics, figures = Metrics("r"), {"engines": 2.0, "engines_lost": 0.0}
    metrics.watch(lambda: figures)
    assert scraped(metrics)["auricle_engines"] == [({"run": "r"}, 2.0)]
    figures["engines"], figures["engines_lost"] = 1.0, 3.0
    again = scraped(metrics)
    assert again["auricle_engines"] == [({"run": "r"}, 1.0)]
    assert again["auricle_engines_lost_total"] == [({"run": "r"}, 3.0)]
    assert "auricle_disk_bytes" not in again


def test_a_step_tells_when_it_was_over_and_an_answer_only_that_the_run_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("r")
    assert "auricle_last_step_timestamp_seconds" not in scraped(metrics)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    metrics.progress()
    moved = scraped(metrics)
    assert moved["auricle_last_progress_timestamp_seconds"] == [({"run": "r"}, 1000.0)]
    assert "auricle_last_step_timestamp_seconds" not in moved
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    metrics.record(line())
    stepped = scraped(metrics)
    assert stepped["auricle_last_step_timestamp_seconds"] == [({"run": "r"}, 2000.0)]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_reference.render(), "run `python -m cluster.metrics_reference`"


def test_the_check_of_the_page_fails_when_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "metrics.md"
    monkeypatch.setattr(metrics_reference, "PAGE", page)
    assert metrics_reference.main([]) == 0
    assert metrics_reference.main(["--check"]) == 0
    page.write_text(page.read_text().replace("auricle_step", "auricle_steps"))
    assert metrics_reference.main(["--check"]) == 1
    assert f"{page} is stale" in capsys.readouterr().err
