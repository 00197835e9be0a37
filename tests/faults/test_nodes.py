"""Ray nodes come and go while a run goes on: a new one is put to work, and with a lost one no group is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.runs import load
from tests.integration.commands import CHECKOUT, command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(900),
]  # a busy machine starts an engine in minutes

HEAD_CPUS = 3
"""For everything but a second engine."""
PROMPTS, STALENESS = 4, 2
WITHOUT_ROOM = ["CREATED"] * 5 + ["PENDING"]
"""Placement groups of four roles and two engines, of which one has no node; RESCHEDULING would cost Ray two cores."""
MEMORY_BYTES = 500_000_000
JOIN_SECONDS, NOTICE_SECONDS, END_SECONDS = 100.0, 60.0, 60.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of one node, which a test may add nodes to."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    head = {"num_cpus": HEAD_CPUS, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield started
    finally:
        started.shutdown()


def states(cluster: Cluster) -> list[str]:
    """Of the placement groups that are not given back."""
    script = (
        "import json, sys, ray; from ray.util.placement_group import placement_group_table; ray.init(sys.argv[1]);"
        "found = [group['state'] for group in placement_group_table().values() if group['state'] != 'REMOVED'];"
        "print(json.dumps(sorted(found)))"
    )
    told = subprocess.run([sys.executable, "-c", script, cluster.address], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(told.stdout)
    return found


def test_a_new_node_is_put_to_work_and_a_lost_one_loses_no_group(
    tmp_path: Path, model: Path, questions: Questions, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(
        tmp_path / "nodes.yaml",
        model,
        questions.train,
        run={"max_steps": 100_000},
        learner={"schedule": "constant"},
        algorithm={"beta": 0.0, "prompts_per_step": PROMPTS, "max_staleness": STALENESS},
    )
    run = tmp_path / "runs" / "nodes"

    def engines(expected: int, lost: int) -> bool:
        """Whether the newest step was taken with so many engines."""
        line = (metrics_lines(run) or [{}])[-1]
        return (line.get("engines"), line.get("engines_lost")) == (expected, lost)

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with command("cluster.launch", "--config", config.name, cwd=tmp_path) as started:
        started.wait_for(lambda: engines(1, lost=0), "a step with one engine", START_SECONDS)
        joined = cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
        started.wait_for(lambda: engines(2, lost=0), "a step with the new node's engine", JOIN_SECONDS)
        after = len(metrics_lines(run)) + 5
        started.wait_for(lambda: len(metrics_lines(run)) >= after, "five steps of two engines", JOIN_SECONDS)
        cluster.remove_node(joined, allow_graceful=False)
        started.wait_for(lambda: engines(1, lost=1), "a step without the lost node", NOTICE_SECONDS)
        cluster.wait_for_nodes(NOTICE_SECONDS)  # Ray knows: the next one is for the engine without a place
        started.wait_for(lambda: states(cluster) == WITHOUT_ROOM, "a place that waits for room", NOTICE_SECONDS)
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
        started.wait_for(lambda: engines(2, lost=1), "a step with the engine that had no place", JOIN_SECONDS)
        assert not any("engine-2" in line for line in started.lines), started.output
        os.kill(started.process.pid, signal.SIGTERM)
        assert started.wait(END_SECONDS) == 130, started.output

    assert any("has joined, and gets engine-1" in line for line in started.lines), started.output
    assert any("engine-1 is lost, and another takes its place" in line for line in started.lines), started.output
    lines = metrics_lines(run)
    assert lines[-1]["dropped"] == 0
    trained = load(run).rollouts
    trained = trained[trained.step <= lines[-1]["step"]]
    assert trained.group_id.is_unique
    assert trained.drop_reason.isna().all()
    assert (trained.groupby("step").size() == PROMPTS).all()
    ages = [row.step - 1 - version for row in trained.itertuples() for of in row.versions for version in of]
    assert max(ages) <= STALENESS
