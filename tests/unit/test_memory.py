"""A rank's forecast memory against what a model holds: numbers exactly, saved activations within a tenth."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.schema import Config
from data.types import ClipFeatures
from learner import lora
from learner.figure import figure, total
from learner.hf import load_model
from learner.learner import checkpoint_activations, trained_as_configured
from learner.memory import BUCKET_NUMBERS, activations, parts_of, rank_memory
from learner.packing import Sequences, pack
from learner.policy import MicroBatch, Policy
from learner.sizes import Sizes, find_sizes
from learner.weights import changed, weights_of
from learner.work import CHUNK_LOGITS, Lengths, Work, work_of
from tests.integration.models import other_model

MODELS: list[dict[str, Any]] = [
    {},
    {"audio_tower": "frozen"},
    {"audio_tower": "frozen", "projector": "frozen"},
    {"audio_tower": "frozen", "lora": {"rank": 4}},
    {"audio_tower": "frozen", "projector": "frozen", "lora": {"rank": 3, "targets": ["q_proj", "up_proj"]}},
    {"lora": {"rank": 4, "tower": True}},
]
CLIP_SECONDS, GROUPS, GROUP_SIZE, COMPLETION_TOKENS = 1.0, 2, 4, 24


def config(model: dict[str, Any] | None = None, **sections: Any) -> Config:
    return Config.model_validate({"model": {"path": "m", **(model or {})}, "data": {"train": "t"}, **sections})


def sizes_at(path: Path | str) -> Sizes:
    return find_sizes(str(path))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_model(tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize("settings", MODELS)
def test_what_is_held_trained_and_sent_is_counted_exactly(other: Path, settings: dict[str, Any]) -> None:
    told = config(settings)
    model = trained_as_configured(load_model(str(other), torch.float32), told, str(other))
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    parts = parts_of(sizes_at(other), told.model)
    assert parts.parameters == sum(parameter.numel() for parameter in parameters)
    assert parts.trained == sum(parameter.numel() for parameter in trained)
    assert parts.sent == sum(prod(weight.shape) for weight in changed(weights_of(model)))
    assert parts.stored == sum(prod(weight.shape) for weight in weights_of(model))
    assert parts.head_trained == model.lm_head.weight.requires_grad
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_adapters_take_the_type_of_the_weights(other: Path) -> None:
    model = load_model(str(other), torch.bfloat16)
    lora.add_adapters(model, config({"audio_tower": "frozen", "lora": {"rank": 4}}).model, str(other))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.heavy
@pytest.mark.parametrize("which", ["other", "model"])  # as many key-value heads as heads, and fewer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("tower", ["trained", "frozen"])
def test_the_forwards_saved_tensors_are_forecast_within_a_tenth(
    which: str, dtype: str, again: bool, tower: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    told = config(
        {"dtype": dtype, "audio_tower": tower},
        learner={"activation_checkpointing": again, "micro_batch_tokens": 100_000},
        algorithm={"group_size": GROUP_SIZE, "prompts_per_step": GROUPS},
    )
    work = work_of(told, Lengths(CLIP_SECONDS, 30, COMPLETION_TOKENS))
    model = trained_as_configured(load_model(str(path), getattr(torch, dtype)), told, str(path))
    if again:
        checkpoint_activations(model)
    found = saved_bytes(Policy(model, 1.0), batch(work, sizes_at(path), tower))
    lines = activations(told, sizes_at(path), work, on_gpu=False)
    kept = [one for one in lines if "again" not in one.what and not (again and one.what == "attention masks")]
    logits = min(work.targets * sizes_at(path).language.vocabulary, CHUNK_LOGITS) * 4
    assert 0.9 < (total(kept) + logits) / found < 1.1


def batch(work: Work, sizes: Sizes, tower: str) -> MicroBatch:
    """A micro-batch of groups of the work's lengths, about clips of their own."""
    frames, audio = work.lengths.frames, sizes.language.vocabulary - 4
    generator = torch.Generator().manual_seed(0)
    clips = []
    for _ in range(work.groups_of_a_micro_batch):
        mel = torch.randn(sizes.tower.mel_bins, frames + 8, generator=generator)
        pooled = torch.randn(work.lengths.prompt_tokens - 30, sizes.tower.width, generator=generator)
        clip = ClipFeatures(mel=mel.numpy(), valid_frames=frames)
        clips.append(clip if tower == "trained" else ClipFeatures(pooled=pooled.numpy()))
    prompt = [5] * 30 + [audio] * (work.lengths.prompt_tokens - 30)
    completion = [[7] * work.lengths.completion_tokens] * work.group_size
    return MicroBatch(pack([Sequences(prompt, completion)] * len(clips)), clips, work.targets)


def saved_bytes(policy: Policy, work: MicroBatch) -> int:
    """Bytes of what autograd keeps of a forward, weights aside, each storage once."""
    policy.audio_token_id = int(work.packed.token_ids[30])
    own = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(work, "value")
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
    return sum(size for place, size in storages.items() if place not in own)


def held(told: Config, sizes: Sizes) -> dict[str, float]:
    memory = rank_memory(told, sizes, work_of(told, Lengths(10, 80, 32)), on_gpu=True)
    return {one.what: one.value for one in memory.held}


@pytest.mark.parametrize("ranks", [1, 4])
def test_every_stage_shards_what_deepspeed_shards(ranks: int) -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")
    model = {"dtype": "bfloat16"}
    parts = parts_of(sizes, config(model).model)

    def of(stage: int) -> dict[str, float]:
        told = config(model, learner={"zero_stage": stage, "ranks": ranks}, algorithm={"beta": 0.0})
        return {name.split(",")[0]: value for name, value in held(told, sizes).items() if "bucket" not in name}

    whole = {
        "weights": 2 * parts.parameters,
        "master weights": 4 * parts.trained,
        "AdamW's two moments": 8 * parts.trained,
    }
    states = {"master weights": whole["master weights"] / ranks, "AdamW's two moments": 8 * parts.trained / ranks}
    assert of(0) == whole | {"gradients": 2 * parts.trained}
    assert of(1) == whole | states | {"gradients": 4 * parts.trained}
    assert of(2) == whole | states | {"gradients": 4 * parts.trained / ranks}
    assert of(3) == of(2) | {"weights": 2 * parts.parameters / ranks}


def test_offloading_moves_states_and_then_weights_to_the_host() -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")
    model, parts = {"dtype": "bfloat16"}, parts_of(sizes, config({}).model)

    def memory(offload: str) -> tuple[float, float]:
        learner = {"zero_stage": 3, "ranks": 4, "offload": offload}
        told = config(model, learner=learner, algorithm={"beta": 0.0})
        found = rank_memory(told, sizes, work_of(told, Lengths(10, 80, 32)), on_gpu=True)
        return total(found.held), total(found.host)

    bucket = 4.0 * BUCKET_NUMBERS
    assert memory("optimizer") == (2 * parts.parameters / 4 + bucket, 20 * parts.trained / 4)
    assert memory("all") == (bucket, (20 * parts.trained + 2 * parts.parameters) / 4)


@pytest.mark.parametrize(
    ("model", "beta", "numbers"),
    [
        ({}, 0.0, None),
        ({}, 0.04, lambda parts: parts.stored),
        ({"audio_tower": "frozen"}, 0.04, lambda parts: parts.stored - parts.tower),
        ({"audio_tower": "frozen", "lora": {"rank": 8}}, 0.04, None),
    ],
)
def test_a_reference_of_its_own_is_held_only_for_a_kl_without_adapters(
    model: dict[str, Any], beta: float, numbers: Any
) -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")
    told = config({"dtype": "bfloat16", **model}, algorithm={"beta": beta}, learner={"zero_stage": 3, "ranks": 8})
    reference = [value for name, value in held(told, sizes).items() if name.startswith("reference")]
    assert reference == ([] if numbers is None else [2 * numbers(parts_of(sizes, told.model))])


def test_the_gradient_of_a_tensor_larger_than_the_bucket_is_counted_apart() -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")
    told = config({"dtype": "bfloat16"}, learner={"zero_stage": 3, "ranks": 4})
    memory = rank_memory(told, sizes, work_of(told, Lengths(10, 80, 32)), on_gpu=True)
    [way] = [one for one in memory.backward if one.what.startswith("gradients on their way")]
    assert way.value == (2 + 1 / 4) * 4 * 156032 * 4096
    assert memory.sending == ()


def test_the_formula_that_is_shown_is_the_one_that_is_computed() -> None:
    one = figure("rows", "max(tokens, 3) * (2 + bytes) / ranks", tokens=1234567, bytes=2, ranks=4)
    assert one.value == 1234567
    assert one.formula == "max(tokens, 3) x (2 + bytes) / ranks"
    assert one.numbers == "max(1,234,567, 3) x (2 + 2) / 4"


def test_what_is_offloaded_whole_is_in_flight_on_one_rank_too() -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")

    def in_flight(offload: str) -> float:
        told = config({"dtype": "bfloat16"}, learner={"zero_stage": 3, "offload": offload})
        memory = rank_memory(told, sizes, work_of(told, Lengths(10, 80, 32)), on_gpu=True)
        return sum(one.value for one in memory.backward if one.what == "weights that are whole for now")

    assert in_flight("optimizer") == 0.0
    assert in_flight("all") == 2 * (1_000_000_000 + 156032 * 4096)


def test_every_rank_reads_model_and_reference_whole_on_its_machine() -> None:
    sizes = sizes_at("Qwen/Qwen2-Audio-7B-Instruct")
    whole = 2 * parts_of(sizes, config({}).model).stored

    def host(model: dict[str, Any], **learner: Any) -> tuple[float, float, float]:
        told = config({"dtype": "bfloat16", **model}, learner={"ranks": 4, **learner})
        found = rank_memory(told, sizes, work_of(told, Lengths(10, 80, 32)), on_gpu=True)
        return total(found.host_starting), total(found.host), total(found.host_reference)

    adapted = {"audio_tower": "frozen", "lora": {"rank": 16}}
    starting, held, reference = host(adapted, zero_stage=2, offload="optimizer")
    assert (starting, reference) == (whole, 0.0)
    assert held < 0.3e9
    assert host({}, zero_stage=3) == (whole, 0.0, whole)
    tower = parts_of(sizes, config({}).model).tower
    assert host({"audio_tower": "frozen"}, zero_stage=3)[2] == whole - 2 * tower
