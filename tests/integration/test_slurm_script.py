"""deploy/slurm/train.sbatch on two nodes, with a stand-in for what of Slurm and Ray one machine does not have."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.deploy_files import DEPLOY
from tests.integration.commands import until

SECONDS = 30.0

PROGRAMS = {
    "python": """#!/bin/bash
if [ "$1" = -c ]; then echo 10.0.0.1; exit; fi
trap 'kill -INT $$' TERM
trap 'echo "run ended"; exit 1' INT
echo "run with $* at $RAY_ADDRESS"
while [ ! -e over ]; do sleep 0.1; done
exit "$(cat over)"
""",
    "ray": """#!/bin/bash
if [ "$1" = health-check ]; then [ -e up ]; exit; fi
echo "$*; $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}"
trap 'echo "ray ended"; exit' TERM
touch up
while true; do sleep 0.1; done
""",
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
trap 'kill $(jobs -p); wait; exit 143' TERM
for number in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_PROCID=$number SLURM_CPUS_ON_NODE=$((number + 4)) SLURM_GPUS_ON_NODE=$number "$@" &
done
wait
""",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script's own files and the stand-ins in its `.venv`."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path


def start(checkout: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The script as the job 51234; what it prints goes to `log`."""
    with open(checkout / "log", "w") as log:
        return subprocess.Popen(
            ["bash", DEPLOY / "slurm" / "train.sbatch", *arguments],
            cwd=checkout,
            env=os.environ | {"SLURM_JOB_ID": "51234", "SLURM_JOB_NUM_NODES": "2"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def lines(checkout: Path) -> list[str]:
    return sorted((checkout / "log").read_text().splitlines())


@pytest.mark.parametrize("status", [0, 2])
def test_a_head_and_a_worker_with_what_slurm_gives_them_last_as_long_as_the_run(checkout: Path, status: int) -> None:
    started = start(checkout, "--config", "my file.yaml", "run.name=aqa")
    until(lambda: any(line.startswith("run with") for line in lines(checkout)), "the run to start", SECONDS)
    until(lambda: any("--address" in line for line in lines(checkout)), "the second node", SECONDS)
    (checkout / "over").write_text(str(status))
    assert started.wait(SECONDS) == status
    assert lines(checkout) == [
        "ray ended",
        "ray ended",
        "run with -m cluster.launch --auto-resume --nodes 2 --config my file.yaml run.name=aqa at 10.0.0.1:21234",
        "start --address 10.0.0.1:21234 --num-cpus 5 --num-gpus 1 --block; token 64",
        "start --head --node-ip-address 10.0.0.1 --port 21234 --include-dashboard false --num-cpus 4 --num-gpus 0 "
        "--block; token 64",
    ]


@pytest.mark.slow
def test_slurms_signal_before_the_time_limit_ends_the_run_and_then_ray(checkout: Path) -> None:
    started = start(checkout, "--config", "my.yaml")
    until(lambda: any(line.startswith("run with") for line in lines(checkout)), "the run to start", SECONDS)
    started.send_signal(signal.SIGTERM)
    assert started.wait(SECONDS) == 128 + signal.SIGTERM
    told = (checkout / "log").read_text().splitlines()
    assert told.index("run ended") < told.index("ray ended")


def test_a_job_that_is_not_submitted_from_a_checkout_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    started = start(tmp_path / "elsewhere", "--config", "my.yaml")
    assert started.wait(SECONDS) == 2
    assert "submit from the checkout, after make setup" in (tmp_path / "elsewhere" / "log").read_text()
