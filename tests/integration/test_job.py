"""`ray job submit` of a checkout to a cluster that was started elsewhere, with the dependencies and without Auricle."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.free_ports import free_ports
from tests.integration.commands import CHECKOUT, Command, command, until
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, START_SECONDS, metrics_lines, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORKERS = 3
NODE_SECONDS, AGENT_SECONDS, STOP_SECONDS, GONE_SECONDS = 90.0, 300.0, 60.0, 15.0
STORE_BYTES = 150_000_000
ACTOR = re.compile(r"ray::(Learner|Rollout|Audio|Reward|RolloutLog)Actor")


@dataclass(frozen=True)
class Started:
    """A head and workers, each in a folder of its own."""

    python: Path
    env: dict[str, str]
    """Of a user who may submit."""
    nodes: list[Command]

    def take_a_job(self) -> None:
        """Return when they have run one; the dashboard answers before the agent that starts jobs is there."""
        submit = [self.python, "-m", "ray.scripts.scripts", "job", "submit", "--", "true"]
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": AGENT_SECONDS}
        deadline = time.monotonic() + AGENT_SECONDS
        while (tried := subprocess.run(submit, env=self.env, text=True, **how)).returncode != 0:
            assert time.monotonic() < deadline, f"no job ran within {AGENT_SECONDS:g} s:\n{tried.stdout}"

    def actors(self) -> list[str]:
        """The actors of runs that live on any node."""
        return [line for node in self.nodes for line in node.left().values() if ACTOR.match(line)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Started]:
    """Four nodes by `ray start`, which ask for a token."""
    python = with_the_dependencies_alone(tmp_path / "elsewhere")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHON"))} | {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    port, dashboard = free_ports(2)
    with ExitStack() as stack:

        def node(name: str, *arguments: str) -> Command:
            (tmp_path / name).mkdir()
            temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie there, whose paths have to be short
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            limits = ("--object-store-memory", str(STORE_BYTES), "--block", "--disable-usage-stats")
            # else the nodes of one machine contend for one port, and a head that loses it takes no job, ever; and
            # each unpacks a job's working directory anew where another's worker already imports from it
            own = ("--dashboard-agent-listen-port", "0", "--temp-dir", temporary)
            start = ("ray.scripts.scripts", "start", *arguments, *limits, *own)
            started = stack.enter_context(command(*start, cwd=tmp_path / name, python=python, env=env))
            started.wait_for(lambda: "Ray runtime started" in started.output, f"the start of {name}", NODE_SECONDS)
            return started

        head = node("head", "--head", "--num-cpus", "2", "--port", str(port), "--dashboard-port", str(dashboard))
        address = re.search(rf"--address='?([\d.]+:{port})", head.output)
        assert address is not None, head.output
        workers = [node(f"worker-{n}", "--address", address[1], "--num-cpus", "2") for n in range(WORKERS)]
        started = Started(python, env | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}, [head, *workers])
        started.take_a_job()
        yield started


def with_the_dependencies_alone(folder: Path) -> Path:
    """An interpreter that finds what Auricle needs, and not Auricle."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    inside = next((folder / "lib").glob("python*")) / "site-packages"
    # a folder that is named here is searched, and the .pth files in it, such as that of a checkout, are not read
    (inside / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = "import importlib.util, ray, vllm; print(importlib.util.find_spec('cluster'))"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    told = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=folder, env=env, check=True)
    assert told.stdout.splitlines()[-1] == "None"
    return python


def test_a_job_runs_is_stopped_and_goes_on_in_the_same_run_directory(
    tmp_path: Path, model: Path, questions: Questions, cluster: Started
) -> None:
    config = write_config(
        tmp_path / "job.yaml",
        model,
        questions.train,
        run={"max_steps": 1000, "dir": str(tmp_path / "shared" / "runs")},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": 1},
    )
    run = tmp_path / "shared" / "runs" / "job"

    def submit(name: str, *arguments: str) -> list[str]:
        launch = ["python", "-m", "cluster.launch", "--config", str(config), "--nodes", str(1 + WORKERS), *arguments]
        return ["job", "submit", "--submission-id", name, "--working-dir", str(CHECKOUT), "--", *launch]

    env = cluster.env
    how: dict[str, Any] = {"cwd": tmp_path, "python": cluster.python, "env": env}
    with command("ray.scripts.scripts", *submit("first"), **how) as first:
        first.wait_for(lambda: len(metrics_lines(run)) >= 2, "two steps", START_SECONDS)
        assert "joining the Ray cluster" in first.output  # the log is followed
        assert len(cluster.actors()) >= 5
        stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", "first"]
        subprocess.run(stop, env=env, cwd=tmp_path, check=True, capture_output=True, timeout=STOP_SECONDS)
        until(lambda: not cluster.actors(), "the end of every actor", GONE_SECONDS)
        first.wait(STOP_SECONDS)

    stopped_at = len(metrics_lines(run))
    longer = ("--resume", f"run.max_steps={stopped_at + 2}")
    with command("ray.scripts.scripts", *submit("second", *longer), **how) as second:
        assert second.wait(RUN_SECONDS) == 0, second.output
    assert f"resuming {run} from step" in second.output
    assert [line["step"] for line in metrics_lines(run)] == list(range(1, stopped_at + 3))
    assert json.loads((run / "summary.json").read_text())["steps"] == stopped_at + 2
    until(lambda: not cluster.actors(), "the end of every actor", GONE_SECONDS)
