"""An embedded cluster answers nobody without its token, and no listener of ours is open to other machines."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray

from cluster.placement import Node
from tests.integration.commands import CHECKOUT, command
from tests.integration.recordings import Questions
from tests.integration.runs import Finished, write_config

REFUSED_SECONDS = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


TOKENS: dict[str, dict[str, str]] = {"none": {}, "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64}}
"""What a stranger brings."""


@pytest.fixture(scope="module")
def strangers(
    tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions, nodes: list[Node]
) -> dict[str, tuple[int, list[str], Path]]:
    """How the launches of strangers have ended, side by side: status, lines, and their folder."""
    folders = {name: tmp_path_factory.mktemp(name) for name in TOKENS}
    with ExitStack() as stack:
        started = {}
        for name, folder in folders.items():
            config = write_config(folder / "stranger.yaml", model, questions.train)
            without = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
            env = without | TOKENS[name] | {
                "HOME": str(folder),  # where Ray looks for a token of the user's
                "PYTHONPATH": str(CHECKOUT),
                "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            }  # fmt: skip
            launch = command("cluster.launch", "--config", config.name, cwd=folder, env=env)
            started[name] = stack.enter_context(launch)
        return {name: (one.wait(REFUSED_SECONDS), one.lines, folders[name]) for name, one in started.items()}


@pytest.mark.parametrize("token", TOKENS)
def test_a_client_without_the_token_is_refused_and_told_what_is_missing(
    strangers: dict[str, tuple[int, list[str], Path]], token: str
) -> None:
    status, lines, folder = strangers[token]
    assert status == 2, lines
    assert "asks for a token" in lines[-1]
    assert "RAY_AUTH_TOKEN" in lines[-1]
    assert not (folder / "runs").exists()


def test_of_a_runs_processes_only_rays_own_port_is_open_to_other_machines(recorded: Finished) -> None:
    ours = {name: open_ports for name, open_ports in recorded.open_ports.items() if not name.startswith("ray/")}
    assert any("LearnerActor" in name for name in ours)
    assert any("RolloutActor" in name for name in ours)
    assert {name: ports for name, ports in ours.items() if len(ports) > 1} == {}  # a worker of Ray's has one
