"""A real Prometheus finds what a run lists, by the shipped configuration, and forgets it when the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.exporter import serve_actor
from actors.metrics import RankMetrics
from cluster.metrics import Metrics
from cluster.targets import listed
from configs import schema
from tests.integration.commands import until
from tests.prometheus import Prometheus, prometheus, shortened

SECONDS = 30.0
HERE = "127.0.0.1"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def started(tmp_path: Path, runs: Path) -> Iterator[Prometheus]:
    with prometheus(shortened(tmp_path, runs, seconds=1), tmp_path / "data") as found:
        yield found


def test_processes_are_scraped_while_the_run_goes_on_and_known_by_the_labels_of_its_file(
    started: Prometheus, runs: Path
) -> None:
    metrics, rank = Metrics("mine"), RankMetrics(lambda: {"process_bytes": 1.0})
    metrics.serve(HERE, 0)
    endpoint = serve_actor(schema.Metrics(port=0), rank.registry, HERE)
    with listed(runs / "mine", metrics.endpoint(HERE)) as targets:
        targets.add("learner", "3", endpoint)
        metrics.progress()
        rank.stepped({"forward": 1.0}, tokens=5)
        until(lambda: len(started.query("up == 1")) == 2, "both processes are scraped", SECONDS)
        [moved] = started.query("auricle_last_progress_timestamp_seconds")
        [spent] = started.query("auricle_rank_phase_seconds_total")
        until(lambda: started.query("auricle:running"), "the rules are evaluated", SECONDS)
    labels = {name: value for name, value in spent["metric"].items() if name not in ("__name__", "instance")}
    assert labels == {"job": "auricle", "run": "mine", "role": "learner", "rank": "3", "phase": "forward"}
    assert moved["metric"]["run"] == "mine"
    assert "exported_run" not in moved["metric"]
    until(lambda: started.targets() == [], "nothing is scraped", SECONDS)
    until(lambda: started.query("up") == started.query("auricle:running") == [], "the run is forgotten", SECONDS)
    metrics.close()


@pytest.mark.slow
def test_a_run_that_was_killed_is_told_of(started: Prometheus, runs: Path) -> None:
    metrics = Metrics("killed")
    metrics.serve(HERE, 0)
    with listed(runs / "killed", metrics.endpoint(HERE)):
        until(lambda: started.query("auricle:running"), "it is scraped", SECONDS)
        metrics.close()  # and its file stays
        until(lambda: started.firing() == {"AuricleRunGone"}, "the alert fires", SECONDS)
