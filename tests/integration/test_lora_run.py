"""A run that trains adapters: its checkpoints are whole models and adapters, and a resume goes on exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from learner.hf import load_model
from tests.integration.recordings import Questions
from tests.integration.runs import SAME, Finished, finished, write_config
from tests.tiny_models import logits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes


@dataclass(frozen=True)
class Twice:
    """A run, and what its last two steps came to when they were taken again from the checkpoint before them."""

    run: Finished
    before: list[Mapping[str, Any]]
    state_before: dict[str, Tensor]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Twice:
    folder = tmp_path_factory.mktemp("adapters")
    config = write_config(
        folder / "adapted.yaml",
        model,
        questions.train,
        model={"lora": {"rank": 4}},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": 2},
    )
    first = finished(config)
    before, state = first.lines(), trained(first.path / "checkpoints" / "step_4")
    shutil.rmtree(first.path / "checkpoints" / "step_4")  # with the summary, what came after the checkpoint of step 2
    (first.path / "summary.json").unlink()
    second = finished(config, "--resume")
    return Twice(replace(second, output=first.output + second.output), before, state)


def trained(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "trainer" / "master.safetensors")


def test_a_resume_takes_the_same_steps_again(twice: Twice) -> None:
    assert "from step 2" in twice.run.output
    again = twice.run.lines()
    assert [line["step"] for line in again] == [1, 2, 3, 4]
    for one, other in zip(twice.before[2:], again[2:], strict=True):
        assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}
    state = trained(twice.run.path / "checkpoints" / "step_4")
    assert state.keys() == twice.state_before.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, twice.state_before[name]), name


def test_engine_and_learner_agree_over_the_run_and_the_policy_leaves_the_base(twice: Twice) -> None:
    lines = twice.run.lines()
    assert max(line["logprob_difference_max"] for line in lines) < 1e-3
    assert lines[0]["kl"] == 0
    assert lines[-1]["kl"] > 0


def test_a_checkpoint_holds_the_merged_model_and_the_adapter_of_its_base(twice: Twice, model: Path) -> None:
    checkpoint = twice.run.path / "checkpoints" / "step_4"
    files = {file.name for file in (checkpoint / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    told = json.loads((checkpoint / "adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(model)
    base = Qwen2AudioForConditionalGeneration.from_pretrained(model)
    first = logits(base)
    merged = logits(load_model(str(checkpoint / "hf"), torch.float32))
    adapted = logits(PeftModel.from_pretrained(base, str(checkpoint / "adapter")))
    torch.testing.assert_close(adapted, merged, rtol=0, atol=1e-5)
    assert (adapted - first).abs().max() > 1e-3
