"""deploy/submit.sh on a Ray cluster that asks for a token: a run goes there, tells its end, and ends with Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy_files import CHECKOUT, DEPLOY
from tests.free_ports import free_ports
from tests.integration.commands import until
from tests.integration.recordings import Questions
from tests.integration.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

START_SECONDS, JOB_SECONDS = 120.0, 120.0


@dataclass(frozen=True)
class Head:
    """A Ray head with a dashboard that takes jobs."""

    environment: dict[str, str]
    """Of a user who may submit."""
    files: Path
    """What Ray keeps of its session."""

    def submit(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Submit a run and wait for its end."""
        return subprocess.run(
            [DEPLOY / "submit.sh", *arguments],
            env=self.environment | changes,
            cwd=self.files,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=JOB_SECONDS,
        )

    def ask(self, *arguments: str) -> str | None:
        """What `ray job ...` answers; None where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=JOB_SECONDS,
        )
        return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    files = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie there, whose paths have to be short
    port, dashboard, agent, client = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-the-tests",
    }
    user = Head(environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}, files)
    options = {
        "port": port,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": 4,
        "object-store-memory": 200_000_000,
        "temp-dir": files / "session",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    with open(files / "head.log", "w") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(
            lambda: user.ask("submit", "--", "true") is not None, f"jobs to be taken; {files}/head.log", START_SECONDS
        )
        yield user
    finally:
        started.terminate()
        try:
            started.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            shutil.rmtree(files, ignore_errors=True)


def versioned(folder: Path) -> set[str]:
    """The names in a checkout's root that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return {line.split("/")[0] for line in listed.splitlines()}


def test_the_checkout_runs_on_the_cluster_with_the_arguments_and_without_what_git_ignores(head: Head) -> None:
    done = head.submit("--config", "tiny", "--dry-run", "run.max_steps=7", "rewards=[{use: accuracy, weight: 0.25}]")
    assert done.returncode == 0, done.stdout
    assert "max_steps: 7" in done.stdout
    assert "weight: 0.25" in done.stdout
    [package] = head.files.glob("session/session_latest/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {path.name for path in package.iterdir()} == versioned(CHECKOUT)


def test_a_run_that_fails_fails_the_command_and_says_why(head: Head) -> None:
    done = head.submit("--config", "tiny", "--dry-run", "learner.learning_rat=1")
    assert done.returncode == 1, done.stdout
    assert "did you mean learner.learning_rate?" in done.stdout


def test_a_user_without_the_token_submits_nothing(head: Head) -> None:
    done = head.submit("--config", "tiny", "--dry-run", RAY_AUTH_TOKEN="another", AURICLE_JOB="refused")
    assert done.returncode == 1, done.stdout
    assert head.ask("status", "refused") is None


def test_ctrl_c_ends_the_job(head: Head, tmp_path: Path, model: Path, questions: Questions) -> None:
    config = write_config(tmp_path / "waits.yaml", model, questions.train)
    job, log = "waits-for-nodes", tmp_path / "submit.log"
    with open(log, "w") as output:
        started = subprocess.Popen(
            [DEPLOY / "submit.sh", "--config", config, "--nodes", "9"],
            env=head.environment | {"AURICLE_JOB": job},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "1 of 9 Ray nodes are there" in log.read_text(), "the run to wait for nodes", JOB_SECONDS)
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(JOB_SECONDS) == 130, log.read_text()
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert f"Job '{job}' was stopped" in (head.ask("status", job) or "")
