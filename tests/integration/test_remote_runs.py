"""A run whose directory and model lie on S3: moto's server, by the same way as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.remote import Remote
from tests.free_ports import free_ports
from tests.integration.commands import command, until
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVER_SECONDS = 60.0
BUCKET = "s3://auricle-tests"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """A bucket, which this process and the commands that it starts reach by their environment alone."""
    [port] = free_ports(1)
    told = tmp_path_factory.mktemp("moto") / "log"
    with told.open("w") as log, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
        try:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            until(lambda: "Running on" in told.read_text(), "the start of moto", SERVER_SECONDS)
            bucket = Remote(BUCKET)
            bucket._storage.mkdir(BUCKET)
            yield bucket
        finally:
            server.terminate()
            server.wait(30)


def test_a_run_by_url_goes_on_on_another_machine_from_what_it_left(
    storage: Remote, tmp_path: Path, model: Path, questions: Questions
) -> None:
    Remote(f"{BUCKET}/model").send(model)
    config = write_config(
        tmp_path / "remote.yaml",
        model,
        questions.train,
        run={"max_steps": 3, "dir": f"{BUCKET}/runs"},
        model={"path": f"{BUCKET}/model"},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": 1, "keep": 1},
        logging={"tensorboard": True},
    )

    def launch(machine: str, *arguments: str) -> str:
        folder = tmp_path / machine
        folder.mkdir()
        env = os.environ | {"AURICLE_CACHE": str(folder / "cache"), "PYTHONPATH": os.getcwd()}
        with command("cluster.launch", "--config", str(config), *arguments, cwd=folder, env=env) as started:
            assert started.wait(RUN_SECONDS) == 0, started.output
        assert os.listdir(folder) == ["cache"]
        return started.output

    first = launch("first", "--nodes", "2")
    assert f"{BUCKET}/runs/remote/summary.json" in first
    run = Remote(f"{BUCKET}/runs/remote")
    assert {"config.yaml", "metrics.jsonl", "environment.json", "summary.json"} <= set(run.files())
    assert sorted(run.files("rollouts")) == [f"rollouts/step_{step:06d}.parquet" for step in (1, 2, 3)]
    assert run.files("tensorboard")
    assert not run.exists(".lock.json")

    second = launch("second", "--resume", "run.max_steps=6")
    assert f"resuming {BUCKET}/runs/remote from step 3" in second
    lines = [json.loads(line) for line in (run.read("metrics.jsonl") or b"").decode().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert json.loads(run.read("summary.json") or b"")["steps"] == 6
    kept = {name.split("/")[1] for name in run.files("checkpoints")}
    assert kept == {"step_3", "step_6"}  # the one that it started from, and the newest
    assert run.exists("checkpoints/step_6/trainer/exp_avg.safetensors")


def test_a_storage_that_is_not_there_ends_a_launch_with_a_line(tmp_path: Path, storage: Remote) -> None:
    config = write_config(tmp_path / "remote.yaml", tmp_path, tmp_path / "q.jsonl", run={"dir": "s3://no-such/runs"})
    with command("cluster.launch", "--config", str(config), "--resume", cwd=tmp_path) as started:
        assert started.wait(RUN_SECONDS) == 2
    assert "error: s3://no-such/runs/remote holds no run to resume" in started.output
