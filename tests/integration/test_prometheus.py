"""A real Prometheus on a real run: it finds every process, every panel has data, and alerts fire when they should."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.dashboard.panels import ROWS, RUN
from tests.integration.commands import Command, command, until
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config
from tests.prometheus import Prometheus, prometheus, shortened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a busy machine starts an engine in minutes

SCRAPE_SECONDS = 2
REQUEST_SECONDS = 10.0
"""After which an engine that hangs is replaced."""
FOUND_SECONDS, DATA_SECONDS, REPLACED_SECONDS, FIRES_SECONDS, END_SECONDS = 60.0, 90.0, 200.0, 200.0, 60.0

EMPTY = {
    'auricle_groups_dropped_total{run=~"$run"}': "no group is dropped",
    'auricle_rank_device_peak_bytes{run=~"$run"}': "there is no GPU",
    'ALERTS{alertstate="firing", run=~"$run"}': "the run is healthy",
}
"""Queries of panels that give nothing in this run, and why."""


@dataclass
class Scraped:
    """A run, and the Prometheus that looks at it."""

    run: Command
    path: Path
    """Of the run's directory."""
    prometheus: Prometheus

    def targets(self) -> dict[tuple[str, str], str]:
        """Address of every process in the run's file, by its role and its name within the role."""
        file = self.path.with_name(f"{self.path.name}.targets.json")
        entries = json.loads(file.read_text()) if file.exists() else []
        named = ("engine", "rank", "node")
        return {
            (entry["labels"]["role"], "".join(entry["labels"].get(name, "") for name in named)): address
            for entry in entries
            for address in entry["targets"]
        }

    def engines(self) -> list[int]:
        """Processes of rollout actors."""
        return [pid for pid, line in self.run.left().items() if "RolloutActor" in line]

    def wait(self, happened: Callable[[], object], what: str, seconds: float) -> None:
        """Until it happens while the run goes on."""
        self.run.wait_for(happened, what, seconds)


# The tests below are of one run, in the order of what befalls it.


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Scraped]:
    """A run that is to go on for longer than any test looks at it, and has taken a few steps."""
    folder = tmp_path_factory.mktemp("scraped")
    config = write_config(
        folder / "scraped.yaml",
        model,
        questions.train,
        run={"max_steps": 100_000},
        data={"validation": str(questions.validation)},
        rollout={"engines": 1, "request_timeout_seconds": REQUEST_SECONDS},
        learner={"learning_rate": 1e-6},  # a random model's policy would go far from its reference
        evaluate={"every_steps": 5, "questions": 2},
        metrics={"port": 0},
    )
    runs = folder / "runs"
    with (
        prometheus(shortened(folder, runs, SCRAPE_SECONDS), folder / "data") as started,
        command("cluster.launch", "--config", config.name, cwd=folder) as run,
    ):
        found = Scraped(run, runs / "scraped", started)
        found.wait(lambda: len(metrics_lines(found.path)) >= 6, "six steps", START_SECONDS)
        yield found


def has_data(prometheus: Prometheus, expression: str) -> bool:
    """Whether a panel would draw anything."""
    series = prometheus.query(expression.replace(RUN, ".*"))
    return any(math.isfinite(float(found["value"][1])) for found in series)


def test_every_process_of_the_run_is_found_and_answers(scraped: Scraped) -> None:
    def found() -> bool:
        health = {target["labels"]["role"]: target["health"] for target in scraped.prometheus.targets()}
        return health == dict.fromkeys(("controller", "engine", "learner", "ray"), "up")

    scraped.wait(found, "every target is up", FOUND_SECONDS)
    assert scraped.targets().keys() >= {("controller", ""), ("engine", "engine-0"), ("learner", "0")}
    labels = {frozenset(series["metric"]) for series in scraped.prometheus.query("auricle_step")}
    assert labels == {frozenset(("__name__", "instance", "job", "role", "run"))}


def test_every_panel_has_data_and_no_alert_fires(scraped: Scraped) -> None:
    queries = [query.expression for row in ROWS for panel in row.panels for query in panel.queries]
    assert set(queries) >= EMPTY.keys()

    def drawn() -> bool:
        return all(has_data(scraped.prometheus, query) for query in queries if query not in EMPTY)

    scraped.wait(drawn, "every panel has data", DATA_SECONDS)
    assert {query for query in queries if not has_data(scraped.prometheus, query)} == EMPTY.keys()
    assert scraped.prometheus.query('count_over_time(ALERTS{alertstate="firing"}[10m])') == []


def test_the_page_is_served_with_its_panels(scraped: Scraped) -> None:
    assert "panels.json" in scraped.prometheus.page("auricle.html")
    rows = json.loads(scraped.prometheus.page("panels.json"))
    assert [row["title"] for row in rows] == [row.title for row in ROWS]


def test_a_replaced_engine_is_scraped_in_place_of_the_lost_one_and_told_of(scraped: Scraped) -> None:
    before = scraped.targets()["engine", "engine-0"]
    [engine] = scraped.engines()
    os.kill(engine, signal.SIGKILL)

    def replaced() -> bool:
        up = scraped.prometheus.query('up{role="engine"} == 1')
        instances = {series["metric"]["instance"] for series in up}
        now = scraped.targets().get(("engine", "engine-0"))
        return now not in (None, before) and instances == {now}

    scraped.wait(replaced, "another engine is scraped", REPLACED_SECONDS)
    scraped.wait(lambda: "AuricleEngineRestarted" in scraped.prometheus.firing(), "the alert", FIRES_SECONDS)


def test_a_run_whose_engines_hang_is_stalled_and_one_that_has_ended_is_not(scraped: Scraped) -> None:
    steps = len(metrics_lines(scraped.path))
    scraped.wait(lambda: len(metrics_lines(scraped.path)) > steps, "the run goes on", REPLACED_SECONDS)
    assert "AuricleRunStalled" not in scraped.prometheus.firing()

    def stalled() -> bool:
        for pid in scraped.engines():  # the engine, and what takes its place
            os.kill(pid, signal.SIGSTOP)
        return "AuricleRunStalled" in scraped.prometheus.firing()

    scraped.wait(stalled, "the alert fires", FIRES_SECONDS)
    scraped.run.process.send_signal(signal.SIGINT)
    assert scraped.run.wait(END_SECONDS) == 130, scraped.run.output
    assert scraped.targets() == {}
    until(lambda: scraped.prometheus.targets() == [], "nothing is scraped", FOUND_SECONDS)
    until(lambda: scraped.prometheus.firing() == set(), "no alert fires", FOUND_SECONDS)
