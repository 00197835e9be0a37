"""deploy/train.sh goes on with a run that is there, and deploy/submit.sh refuses what it cannot submit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy_files import DEPLOY


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A folder with a `python` that prints what it is given, one argument a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "python").chmod(0o755)
    return folder


def launched_with(python: Path, *arguments: str) -> list[str]:
    """The arguments that train.sh gives to cluster.launch."""
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}"}
    done = subprocess.run(
        [DEPLOY / "train.sh", *arguments], env=environment, capture_output=True, text=True, check=True, timeout=10
    )
    module, *given = done.stdout.splitlines()[1:]
    assert module == "cluster.launch"
    return given


def run_of(folder: Path) -> list[str]:
    """Arguments that name a run, which is there."""
    (folder / "my runs" / "aqa").mkdir(parents=True)
    (folder / "my runs" / "aqa" / "config.yaml").write_text("")
    return [f"run.dir={folder / 'my runs'}", "run.name=aqa"]


def test_a_run_that_is_there_is_resumed(tmp_path: Path, python: Path) -> None:
    arguments = ["--config", "my.yaml", *run_of(tmp_path), "data.prompt={text: '{question}', form: answer}"]
    assert launched_with(python, *arguments) == [*arguments, "--resume"]


@pytest.mark.parametrize("said", ["--resume", "--fresh"])
def test_what_becomes_of_a_run_that_is_there_is_the_users_to_say(tmp_path: Path, python: Path, said: str) -> None:
    arguments = [*run_of(tmp_path), said]
    assert launched_with(python, *arguments) == arguments


def test_a_run_that_is_not_there_and_one_that_is_not_named_are_started(tmp_path: Path, python: Path) -> None:
    directory, _ = run_of(tmp_path)
    for arguments in ([directory, "run.name=other"], [directory], ["--config", "tiny", "run.name=aqa"]):
        assert launched_with(python, *arguments) == arguments


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
    assert "RAY_ADDRESS=http://HEAD:8265" in done.stderr


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
