"""Adapters on learner ranks: sharded or not, resumed or not, measured against the base, exported for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from learner.hf import load_model, load_tensors
from learner.losses import kl_k3
from learner.packing import Sequences, expand_audio, pack
from learner.policy import MicroBatch, Policy
from tests.integration.learner_ranks import Job, Outcome, fabricate, run_ranks
from tests.integration.test_learner_ranks import ROUNDING, SMALL, assert_equal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

LORA = {"rank": 4, "alpha": 8, "tower": True}
FEW_STEPS = 1e-4
"""Relative difference of an adapter that began at zero a few steps ago; AdamW steps on a gradient near zero too."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def outcomes(model: Path, folder: Path) -> dict[str, Outcome]:
    """Everything goes on from the checkpoint of the second update: the first leaves every A as it was drawn."""
    begun, saved = str(folder / "begun"), str(folder / "saved")
    coarse_begun, coarse = str(folder / "begun in bfloat16"), str(folder / "bfloat16")
    alone = [
        Job("begun", 0, SMALL, save=begun, lora=LORA),
        Job("saved", 0, SMALL, updates=2, load=begun, save=saved, lora=LORA),
        Job("resumed", 0, SMALL, load=saved, lora=LORA),
        Job("whole", 0, 100_000, load=saved, save=str(folder / "whole"), lora=LORA),
        Job("begun in bfloat16", 0, SMALL, save=coarse_begun, dtype="bfloat16", lora=LORA),
        Job("saved in bfloat16", 0, SMALL, updates=2, load=coarse_begun, save=coarse, dtype="bfloat16", lora=LORA),
        Job("resumed in bfloat16", 0, SMALL, load=coarse, dtype="bfloat16", lora=LORA),
    ]
    together = [
        Job(f"ZeRO {stage}", stage, SMALL, load=saved, save=str(folder / f"ZeRO {stage}"), lora=LORA)
        for stage in (0, 2, 3)
    ]
    return {
        **run_ranks(folder / "one", 1, model, model, alone),
        **run_ranks(folder / "two", 2, model, model, together),
    }


@pytest.mark.parametrize("dtype", ["", " in bfloat16"])
def test_adapters_are_put_back_on_the_base_and_go_on_exactly(outcomes: dict[str, Outcome], dtype: str) -> None:
    uninterrupted, resumed = outcomes[f"saved{dtype}"], outcomes[f"resumed{dtype}"]
    assert resumed.grad_norms == uninterrupted.grad_norms[1:]
    assert resumed.kls == uninterrupted.kls[1:]
    assert resumed.state.keys() == uninterrupted.state.keys()
    for name, tensor in uninterrupted.state.items():
        assert torch.equal(tensor, resumed.state[name]), name


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_the_adapters_as_one_does(outcomes: dict[str, Outcome], stage: int) -> None:
    whole, split = outcomes["whole"], outcomes[f"ZeRO {stage}"]
    assert whole.micro_batches < split.micro_batches
    assert split.grad_norms == pytest.approx(whole.grad_norms, rel=ROUNDING)
    assert split.kls == pytest.approx(whole.kls, rel=1e-4)
    assert_equal(whole, split, FEW_STEPS)


def test_every_adapter_is_updated(outcomes: dict[str, Outcome]) -> None:
    moments = {name: tensor for name, tensor in outcomes["whole"].state.items() if name.startswith("exp_avg/")}
    assert sum(".lora_B." in name for name in moments) == 26
    assert [name for name, tensor in moments.items() if not torch.any(tensor)] == []


@pytest.mark.parametrize("name", ["whole", "ZeRO 0", "ZeRO 3"])
def test_the_kl_is_that_against_a_frozen_copy_of_the_base(
    outcomes: dict[str, Outcome], model: Path, folder: Path, name: str
) -> None:
    policy, base = (Policy(load_model(str(path), torch.float32), 1.0) for path in (folder / "saved" / "hf", model))
    apart = kl_k3(torch.cat(logprobs(policy, model)), torch.cat(logprobs(base, model)))
    assert apart.mean() > 1e-3
    assert outcomes[name].kls == pytest.approx([apart.mean().item()], rel=1e-3)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_ranks_with_shards_export_the_merged_model_that_one_rank_exports(
    outcomes: dict[str, Outcome], model: Path, folder: Path, stage: int
) -> None:
    base, whole, split = (
        dict(load_tensors(str(path))) for path in (model, folder / "whole" / "hf", folder / f"ZeRO {stage}" / "hf")
    )
    adapted = {name.removesuffix(".lora_B.weight") for name in released(outcomes["whole"]) if ".lora_B." in name}
    assert whole.keys() == split.keys() == base.keys()
    for name, tensor in whole.items():
        changed = name.removesuffix(".weight") in adapted or name.startswith("multi_modal_projector.")
        assert torch.equal(tensor, base[name]) != changed, name
        assert (tensor - split[name]).norm() <= ROUNDING * tensor.norm(), name


def released(outcome: Outcome) -> list[str]:
    return [name.removeprefix("master/") for name in outcome.state if name.startswith("master/")]


@pytest.mark.parametrize("name", ["whole", "ZeRO 3"])
def test_peft_loads_the_adapter_on_the_base_and_hears_what_the_merged_model_hears(
    outcomes: dict[str, Outcome], model: Path, folder: Path, name: str
) -> None:
    assert name in outcomes
    loaded = PeftModel.from_pretrained(
        Qwen2AudioForConditionalGeneration.from_pretrained(model), str(folder / name / "adapter")
    )
    assert loaded.peft_config["default"].base_model_name_or_path == str(model)
    merged = Policy(load_model(str(folder / name / "hf"), torch.float32), 1.0)
    base = logprobs(Policy(load_model(str(model), torch.float32), 1.0), model)
    for one, other, before in zip(
        logprobs(Policy(loaded.get_base_model(), 1.0), model), logprobs(merged, model), base, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert (one - before).abs().max() > 1e-2


@torch.no_grad()
def logprobs(policy: Policy, model: Path) -> list[Tensor]:
    """Of every token that counts, group by group."""
    groups, features = fabricate(str(model))
    found = []
    for group in groups:
        prompt = expand_audio(group.prompt.token_ids, policy.audio_token_id, group.prompt.clip.audio_tokens)
        completions = [
            completion.token_ids
            for completion, reward in zip(group.completions, group.total, strict=True)
            if reward is not None
        ]
        packed = pack([Sequences(prompt, completions)])
        found.append(policy.eval()(MicroBatch(packed, [features[group.prompt.clip.sha256]]))[0])
    return found
