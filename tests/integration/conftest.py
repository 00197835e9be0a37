"""What the integration tests share: recordings, a model, and one Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.nodes import connected
from cluster.placement import Node
from configs.schema import Cluster
from tests.integration.asynchronous import Runs, take
from tests.integration.models import hearing_model
from tests.integration.recordings import Questions, write_questions
from tests.integration.runs import Finished, run_on_flawed_data


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    """JSONL files of the demo set's recordings."""
    return write_questions(tmp_path_factory.mktemp("questions") / "recorded")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model that hears."""
    return hearing_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[Node]]:
    """An embedded Ray cluster of one node, for the tests that start actors themselves."""
    with connected(Cluster(cpus_per_node=16), print) as found:
        yield found


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Finished:
    """A run on recordings that has ended, with everything that it wrote."""
    return run_on_flawed_data(tmp_path_factory.mktemp("recorded"), model, questions)


@pytest.fixture(scope="session")
def asynchronous(
    tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions, nodes: list[Node]
) -> Runs:
    """Runs of two engines that sample while the learner trains."""
    return take(tmp_path_factory.mktemp("asynchronous"), model, questions, nodes)
