"""deploy/submit.sh refuses what it cannot submit, and ends with the status of its job."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy_files import DEPLOY


def submitted(*arguments: str, address: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": address} if address is not None else {}
    return subprocess.run(
        [DEPLOY / "submit.sh", *arguments], env=environment, capture_output=True, text=True, timeout=10
    )


@pytest.mark.parametrize(
    ("address", "named"), [(None, "RAY_ADDRESS is not set"), ("head:6379", "'head:6379'"), ("auto", "'auto'")]
)
def test_an_address_that_takes_no_jobs_is_refused_with_an_example(address: str | None, named: str) -> None:
    done = submitted("--config", "tiny", address=address)
    assert done.returncode == 2
    assert named in done.stderr
    assert "RAY_ADDRESS=http://127.0.0.1:8265" in done.stderr


RAY = """#!/bin/sh
echo "ray $2" >> ray.log
case $2 in
    submit) [ "$END" != failed ] ;;
    logs) [ "$END" != unreachable ] && echo succeeded > outcome ;;
    status) echo "Job \'$3\' $(cat outcome)" ;;
esac
"""


@pytest.mark.parametrize(
    ("end", "outcome", "status", "asked"),
    [
        ("succeeded", "succeeded", 0, ["submit", "status"]),
        ("failed", "failed", 1, ["submit"]),
        ("stopped", "was stopped", 1, ["submit", "status"]),
        ("lost", "RUNNING", 0, ["submit", "status", "logs", "status"]),
        ("unreachable", "RUNNING", 1, ["submit", "status", "logs"]),
    ],
)
def test_the_status_is_that_of_the_job_also_where_the_connection_was_lost(
    tmp_path: Path, end: str, outcome: str, status: int, asked: list[str]
) -> None:
    (tmp_path / "deploy").mkdir()
    script = shutil.copy(DEPLOY / "submit.sh", tmp_path / "deploy")
    ray = tmp_path / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(RAY)
    ray.chmod(0o755)
    (tmp_path / "outcome").write_text(outcome)
    environment = os.environ | {"RAY_ADDRESS": "http://head:8265", "END": end}
    done = subprocess.run([script, "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert [line.split()[1] for line in (tmp_path / "ray.log").read_text().splitlines()] == asked
    assert ("http://head:8265 does not answer" in done.stderr) == (end == "unreachable")


def test_help_has_examples_and_needs_no_cluster() -> None:
    done = submitted("--help", address=None)
    assert done.returncode == 0
    assert "deploy/submit.sh --config qwen2_audio_7b" in done.stdout
    assert submitted(address=None).returncode == 2
