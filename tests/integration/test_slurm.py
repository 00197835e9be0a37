"""deploy/slurm/train.sbatch as Slurm runs it: a job trains, a second one goes on, and nothing of either is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy_files import CHECKOUT, DEPLOY
from tests.integration.commands import until
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, START_SECONDS, metrics_lines, write_config
from tests.integration.slurm import CPUS, Slurm, missing, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

END_SECONDS = 60.0
GOING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Slurm]:
    with slurm() as started:
        yield started


def submit(scheduler: Slurm, log: Path, *arguments: str) -> int:
    """Give Slurm a job; its number."""
    done = subprocess.run(
        ["sbatch", "--parsable", f"--output={log}", DEPLOY / "slurm" / "train.sbatch", *arguments],
        env=scheduler.environment | {"PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


def state(scheduler: Slurm, job: int) -> str:
    found = re.search(r"JobState=(\w+)", scheduler.ask("scontrol", "show", "job", str(job)))
    return found[1] if found else "UNKNOWN"


def left_of(job: int) -> list[str]:
    """Command lines of the processes that a job has started and not ended."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            of_job = f"SLURM_JOB_ID={job}".encode() in (directory / "environ").read_bytes().split(b"\0")
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it ended meanwhile
            continue
        if of_job and line:
            found.append(line)
    return found


def text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def wait_for(scheduler: Slurm, job: int, log: Path, happened: Callable[[], object], seconds: float) -> None:
    """Until `happened`, which it has to before the job ends or with that."""
    until(lambda: happened() or state(scheduler, job) not in GOING, f"something in {log}", seconds)
    assert happened(), f"{state(scheduler, job)}:\n{text(log)}"


def answers(address: str, token: str) -> bool:
    """Whether Ray's head answers somebody with this token."""
    asked = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        capture_output=True,
        timeout=60,
    )
    return asked.returncode == 0


@pytest.fixture
def arguments(tmp_path: Path, model: Path, questions: Questions) -> list[str]:
    """Of a run of two steps, in `runs/slurm`."""
    config = write_config(tmp_path / "slurm.yaml", model, questions.train, run={"max_steps": 2})
    return ["--config", str(config), f"run.dir={tmp_path / 'runs'}", "run.name=slurm"]


def test_a_job_trains_and_a_second_one_goes_on_and_nothing_is_left(
    tmp_path: Path, arguments: list[str], scheduler: Slurm
) -> None:
    run = tmp_path / "runs" / "slurm"

    log = tmp_path / "first.log"
    job = submit(scheduler, log, *arguments)
    wait_for(scheduler, job, log, lambda: "joining the Ray cluster at" in text(log), START_SECONDS)
    [address] = set(re.findall(r"joining the Ray cluster at (\S+)", text(log)))
    assert int(address.rpartition(":")[2]) == 20_000 + job % 10_000
    assert not answers(address, "another")
    wait_for(scheduler, job, log, lambda: state(scheduler, job) == "COMPLETED", RUN_SECONDS)
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
    until(lambda: left_of(job) == [], "every process to have ended", END_SECONDS)

    log = tmp_path / "second.log"
    job = submit(scheduler, log, *arguments, "run.max_steps=100000")
    wait_for(scheduler, job, log, lambda: len(metrics_lines(run)) > 2, START_SECONDS)
    assert "from step 2" in text(log)
    scheduler.ask("scancel", str(job))
    wait_for(scheduler, job, log, lambda: state(scheduler, job) == "CANCELLED", END_SECONDS)
    until(lambda: left_of(job) == [], "every process to have ended", END_SECONDS)


def test_a_run_that_is_refused_fails_its_job_and_ray_has_the_cpus_that_slurm_gives(
    tmp_path: Path, arguments: list[str], scheduler: Slurm
) -> None:
    log = tmp_path / "refused.log"
    job = submit(scheduler, log, *arguments, f"learner.ranks={CPUS}")
    wait_for(scheduler, job, log, lambda: state(scheduler, job) == "FAILED", START_SECONDS)
    assert f"are needed and the 1 node(s) have {CPUS}:" in text(log)
    until(lambda: left_of(job) == [], "every process to have ended", END_SECONDS)
