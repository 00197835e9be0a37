"""A model of other sizes and another tokenizer is trained whole, by two ranks and two engines on two nodes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from learner.hf import load_tensors
from learner.hf_files import load_processor
from tests.integration.models import other_model
from tests.integration.recordings import Questions
from tests.integration.runs import Finished, finished, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

STEPS = 3


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_model(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, other: Path, questions: Questions) -> Finished:
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(
        folder / "whole.yaml",
        other,
        questions.train,
        run={"max_steps": STEPS},
        model={"audio_tower": "trained", "projector": "trained"},
        rollout={"engines": 2},
        learner={"ranks": 2},
    )
    return finished(config, "--nodes", "2")


def test_every_step_is_taken_and_engine_and_learner_agree(trained: Finished) -> None:
    lines = trained.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(0 < line["logprob_difference_max"] < 1e-3 for line in lines)
    assert all(line["grad_norm"] > 0 for line in lines)


def test_the_reference_stays_where_the_policy_began(trained: Finished) -> None:
    divergences = [line["kl"] for line in trained.lines()]
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert all(kl > 1e-6 for kl in divergences[1:])


def test_tower_projector_and_language_model_have_moved(trained: Finished, other: Path) -> None:
    before = dict(load_tensors(str(other)))
    after = dict(load_tensors(str(trained.path / "checkpoints" / f"step_{STEPS}" / "hf")))
    assert after.keys() == before.keys()
    for part in ("audio_tower.conv1.weight", "multi_modal_projector.linear.weight", "language_model.lm_head.weight"):
        assert not torch.equal(before[part], after[part]), part


def test_the_checkpoint_keeps_the_models_own_tokenizer_and_mel_bins(trained: Finished, other: Path) -> None:
    kept = load_processor(str(trained.path / "checkpoints" / f"step_{STEPS}" / "hf"))
    own = load_processor(str(other))
    assert kept.tokenizer.get_vocab() == own.tokenizer.get_vocab()
    assert kept.feature_extractor.feature_size == 128


def test_the_run_is_spread_over_the_nodes_that_were_asked_for(trained: Finished) -> None:
    assert "embedded Ray cluster of 2 node(s)" in trained.output
    first, second = re.findall(r"engine-\d on node (\w+)", trained.output)
    assert first != second
