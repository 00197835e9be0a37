"""From a learner in shards on two ranks to an engine whose layers are shared by two processes, bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from torch import Tensor

from cluster.placement import Node
from learner.hf import load_tensors
from learner.sizes import PROJECTOR, TOWER
from tests.integration.live import Live, examples, live, live_config
from tests.integration.recordings import Questions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

AGREEMENT = 1e-4
"""Largest difference of a log-prob between engine and learner in float32."""
VISIBLE = 1e-2
"""Least difference that three updates make."""
BUCKET_BYTES = 60_000
"""Tensors of one layer then lie in several buckets."""


@pytest.fixture(scope="module")
def session(model: Path, questions: Questions, nodes: list[Node]) -> Iterator[Live]:
    learner = {"ranks": 2, "zero_stage": 3, "bucket_bytes": BUCKET_BYTES}
    config = live_config(model, questions, rollout={"tensor_parallel": 2}, learner=learner)
    with live(config, nodes) as started:
        yield started


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def keep_digests(worker: Any) -> None:
    """In a worker of vLLM: note what its model is given from now on."""
    model = worker.get_model()
    load, model.given = model.load_weights, {}

    def noting(weights: Iterable[tuple[str, Tensor]]) -> Any:
        kept = [(name, tensor) for name, tensor in weights]
        model.given |= {name: digest(tensor) for name, tensor in kept}
        return load(kept)

    model.load_weights = noting


@pytest.fixture(scope="module")
def updated(session: Live, questions: Questions) -> Live:
    """The session after three updates."""
    session.in_engine(lambda engine: engine.collective_rpc(keep_digests))
    for epoch in range(3):
        session.train(session.sample(session.prompts(examples(questions), epoch)))
        session.send_weights()
    return session


def test_after_several_updates_every_worker_is_given_exactly_the_learners_weights(
    updated: Live, tmp_path: Path, model: Path
) -> None:
    session = updated
    layout = session._run(session.workers.learner.weights.begin(session.version, {})).layout
    assert len(layout.buckets) > 5
    session._run(session.workers.learner.save(str(tmp_path), {}))
    session._run(session.workers.learner.saved())
    saved = dict(load_tensors(str(tmp_path / "hf")))
    first = dict(load_tensors(str(model)))
    sent = [slot.name for slots in layout.buckets for slot in slots]
    assert set(sent) == {name for name in saved if not name.endswith("embed_positions.weight")}
    assert all((saved[name] - first[name]).abs().max() > VISIBLE for name in sent)

    heard = {name: digest(saved[name]) for name in sent if name.startswith((TOWER, PROJECTOR))}
    spoken = {name: digest(saved[name]) for name in sent if name not in heard}
    workers = session.in_engine(lambda engine: engine.collective_rpc(lambda worker: worker.get_model().given))
    assert len(workers) == 2
    assert all(given == spoken for given in workers)

    def held(actor: Any) -> dict[str, str]:
        embedder = actor._audio
        tower = {TOWER + name: parameter for name, parameter in embedder._tower.named_parameters()}
        return {name: digest(tensor) for name, tensor in (tower | embedder._projector).items() if name in heard}

    assert session.in_rollout(held) == heard


def test_engine_and_learner_are_one_policy_then(updated: Live, questions: Questions) -> None:
    result = updated.train(updated.sample(updated.prompts(examples(questions), epoch=10)))
    assert result.logprob_difference_max < AGREEMENT


def test_a_version_that_is_sent_again_and_again_is_loaded_each_time(session: Live, questions: Questions) -> None:
    for _ in range(20):
        session.send_weights()
    [engine] = session.workers.rollout.actors.values()
    assert ray.get(engine.__ray_call__.remote(lambda actor: len(actor._updates))) == 0
    assert all(group.is_of(session.version) for group in session.sample(session.prompts(examples(questions), epoch=20)))


def test_no_bucket_stays_in_memory(session: Live) -> None:
    session.send_weights()

    def files(_: Any) -> list[str]:
        opened = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.exists()]
        mapped = Path("/proc/self/maps").read_text().splitlines()
        return [name for name in (*opened, *mapped) if "auricle-bucket" in name]

    assert session.in_rollout(files) == []
    assert session.in_engine(lambda engine: engine.collective_rpc(files)) == [[], []]
