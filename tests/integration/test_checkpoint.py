"""A checkpoint is a model for transformers and vLLM, holds the trained weights, and no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.placement import Node
from configs.load import load_config
from data.formats import load_examples
from learner.hf import load_model, load_tensors
from tests.integration.live import live
from tests.integration.recordings import Questions
from tests.integration.runs import Finished

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

STEPS = (2, 4)
TEXT = (".json", ".jinja", ".txt")


def checkpoint(run: Finished, step: int = STEPS[-1]) -> Path:
    return run.path / "checkpoints" / f"step_{step}"


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_holds_safetensors_and_text_alone(recorded: Finished, step: int) -> None:
    files = [file for file in checkpoint(recorded, step).rglob("*") if file.is_file()]
    assert {"config.json", "state.json", "master.safetensors"} <= {file.name for file in files}
    for file in files:
        if file.suffix == ".safetensors":
            load_file(file)
        else:
            assert file.suffix in TEXT, file
            file.read_text(encoding="utf-8")


def test_the_exported_weights_are_the_trained_ones_and_the_frozen_ones_as_they_were(
    recorded: Finished, model: Path
) -> None:
    master = load_file(checkpoint(recorded) / "trainer" / "master.safetensors")
    before = dict(load_tensors(str(model)))
    after = dict(load_tensors(str(checkpoint(recorded) / "hf")))
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        if name.startswith("audio_tower."):
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, master[name]), name
            assert not torch.equal(tensor, before[name]), name


def test_the_trainer_state_knows_where_the_run_stood(recorded: Finished) -> None:
    state = json.loads((checkpoint(recorded) / "trainer" / "state.json").read_text())
    line = recorded.lines()[-1]
    assert state["step"] == state["updates"] == line["step"]
    assert state["ledger"] == {
        "admitted": line["admitted"], "trained": line["trained"], "dropped": line["dropped_by_reason"]
    }  # fmt: skip
    assert state["position"] == line["admitted"]


def test_engine_and_learner_load_a_checkpoint_as_the_policy_that_the_run_ended_with(
    recorded: Finished, questions: Questions, nodes: list[Node]
) -> None:
    hf = checkpoint(recorded) / "hf"
    assert load_model(str(hf), torch.float32).config.audio_token_id > 0
    config = load_config(str(recorded.folder / "recorded.yaml"), [f"model.path={hf}", "algorithm.beta=0"])
    examples = load_examples(questions.test).examples
    with live(config, nodes) as session:
        answers = session.greedy(examples)
        assert session.train(session.sample(session.prompts(examples))).logprob_difference_max < 1e-4
    kept = json.loads((recorded.path / "eval" / "trained.json").read_text())["rows"]
    assert answers == [row["completion"] for row in kept]
