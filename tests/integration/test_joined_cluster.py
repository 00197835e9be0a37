"""A run joins the Ray cluster that RAY_ADDRESS names, from a folder that the cluster's workers do not start in."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import ray

from cluster.placement import Node
from cluster.storage import StorageError, prove
from tests.integration import plug_ins
from tests.integration.commands import command, until
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, metrics_lines, write_config

FREE_SECONDS = 30.0

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_run_joins_the_cluster_with_relative_paths_and_gives_back_what_it_took(
    tmp_path: Path, model: Path, questions: Questions, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "my model")
    shutil.copytree(questions.folder, tmp_path / "my questions")
    shutil.copy(plug_ins.__file__, tmp_path / "my_rewards.py")
    config = write_config(
        tmp_path / "joined.yaml",
        Path("my model"),
        Path("my questions/train.jsonl"),
        run={"max_steps": 2},
        data={"feature_cache": "my features"},
    )
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    rewards = "rewards=[{use: 'my_rewards:vowels'}]"
    with command("cluster.launch", "--config", config.name, rewards, cwd=tmp_path) as started:
        status = started.wait(RUN_SECONDS)
        assert status == 0, started.output
        assert "joining the Ray cluster at" in started.output
    lines = metrics_lines(tmp_path / "runs" / "joined")
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["kl"] > 0
    assert any((tmp_path / "my features").iterdir())  # a folder for each tower, made where the run was started
    until(
        lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"],
        "every CPU of the cluster free again",
        FREE_SECONDS,
    )


def test_every_node_shows_that_it_reaches_what_the_run_writes_and_reads(tmp_path: Path, nodes: list[Node]) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(b"RIFF")
    prove(f"{tmp_path}/runs", [str(clip), str(tmp_path)])
    assert list((tmp_path / "runs").iterdir()) == []


def test_storage_that_a_node_does_not_reach_is_named_with_the_mend(
    tmp_path: Path, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers start elsewhere, so that a relative path is another place for them
    with pytest.raises(StorageError, match="storage that every node reaches, under the same absolute paths") as refused:
        prove("runs", ["clip.wav"])
    unread, unseen = str(refused.value).split("\n  node ")[1:]
    assert re.fullmatch(r"[\d.]+: clip\.wav cannot be read \(No such file or directory\)", unread)
    assert re.fullmatch(r"[\d.]+: what it writes into run\.dir=runs is not seen here", unseen)


def test_a_storage_by_url_that_each_node_has_for_itself_is_none(nodes: list[Node]) -> None:
    with pytest.raises(StorageError) as refused:
        prove("memory://runs", ["memory://model"])
    unread, unseen = str(refused.value).split("\n  node ")[1:]
    assert re.fullmatch(r"[\d.]+: memory://model holds no file", unread)
    assert re.fullmatch(r"[\d.]+: what it writes into run\.dir=memory://runs is not seen here", unseen)
