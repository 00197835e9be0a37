"""Adapters: what of a model they train, how they are merged, switched off and exported, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import Qwen2AudioForConditionalGeneration

from configs.load import ConfigError, load_config
from configs.schema import LANGUAGE_LAYERS, TOWER_LAYERS, Model
from learner import lora
from learner.hf import load_model, load_tensors
from learner.weights import changed, released_name, weights_of
from tests import tiny_models
from tests.tiny_models import logits

EVERYWHERE: dict[str, Any] = {"lora": {"rank": 4, "alpha": 12, "tower": True}}
LANGUAGE_ALONE: dict[str, Any] = {"audio_tower": "frozen", "projector": "frozen", "lora": {"rank": 4, "alpha": 12}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.model_directory(tmp_path_factory.mktemp("lora"))


def adapted(
    base: Path, settings: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Qwen2AudioForConditionalGeneration:
    """The base with adapters that change what it says."""
    model = load_model(str(base), dtype)
    lora.add_adapters(model, Model.model_validate({"path": str(base), **settings}), str(base))
    generator = torch.Generator().manual_seed(0)
    for _, parameter in trained(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.mark.heavy
def test_adapters_and_a_trained_projector_are_trained_and_nothing_else(base: Path) -> None:
    layers = {
        name.removesuffix(".weight")
        for name, tensor in load_tensors(str(base))
        if ".layers." in name and name.endswith(".weight") and tensor.ndim == 2  # norms are vectors
    }
    assert {name.rpartition(".")[2] for name in layers} == {*LANGUAGE_LAYERS, *TOWER_LAYERS}
    assert {released_name(name) for name, _ in trained(adapted(base, EVERYWHERE))} == {
        *(f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"),
        "multi_modal_projector.linear.weight",
        "multi_modal_projector.linear.bias",
    }


@pytest.mark.heavy
def test_a_frozen_projector_and_the_tower_are_left_alone(base: Path) -> None:
    names = [released_name(name) for name, _ in trained(adapted(base, LANGUAGE_ALONE))]
    assert all(name.startswith("language_model.") and ".lora_" in name for name in names)


def test_new_adapters_change_nothing(base: Path) -> None:
    model = load_model(str(base), torch.float32)
    before = logits(model)
    lora.add_adapters(model, Model.model_validate({"path": str(base), **EVERYWHERE}), str(base))
    assert torch.equal(logits(model), before)
    stored = dict(load_tensors(str(base)))
    assert {weight.name for weight in weights_of(model)} == set(stored)
    assert all(torch.equal(weight.value(), stored[weight.name]) for weight in weights_of(model))


@pytest.mark.heavy
@pytest.mark.parametrize("settings", [EVERYWHERE, LANGUAGE_ALONE], ids=["everywhere", "language"])
def test_merged_weights_are_the_model_with_its_adapters(base: Path, settings: dict[str, Any]) -> None:
    model, plain = adapted(base, settings), load_model(str(base), torch.float32)
    before = logits(plain)
    targets = {released_name(name): parameter for name, parameter in plain.named_parameters()}
    for weight in weights_of(model):
        targets[weight.name].data.copy_(weight.value())
    assert (logits(model) - before).abs().max() > 0.1
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)


def test_a_bfloat16_weight_is_merged_to_its_own_precision(base: Path) -> None:
    model = adapted(base, LANGUAGE_ALONE, torch.bfloat16)
    layer = model.model.language_model.layers[1].mlp.up_proj
    [found] = [weight for weight in weights_of(model) if weight.name.endswith("layers.1.mlp.up_proj.weight")]
    own = layer.base_layer.weight.float()
    delta = 12 / 4 * layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
    assert found.value().dtype is torch.bfloat16
    assert ((found.value().float() - own - delta).abs() <= 2**-8 * (own.abs() + 2 * delta.abs())).all()


def test_an_engine_gets_every_tensor_of_a_layer_that_changed_and_no_other(base: Path) -> None:
    model = adapted(base, {**EVERYWHERE, "lora": {"tower": True, "targets": ["v_proj", "up_proj", "fc1"]}})
    names = {weight.name for weight in changed(weights_of(model))}
    assert names == {
        *(f"language_model.model.layers.{n}.self_attn.{x}_proj.{part}"
          for n in (0, 1) for x in "qkv" for part in ("weight", "bias")),
        *(f"language_model.model.layers.{n}.mlp.{x}_proj.weight" for n in (0, 1) for x in ("gate", "up")),
        *(f"audio_tower.layers.{n}.self_attn.{x}" for n in (0, 1)
          for x in ("q_proj.weight", "q_proj.bias", "k_proj.weight", "v_proj.weight", "v_proj.bias")),
        *(f"audio_tower.layers.{n}.fc1.{part}" for n in (0, 1) for part in ("weight", "bias")),
        "multi_modal_projector.linear.weight",
        "multi_modal_projector.linear.bias",
    }  # fmt: skip


def test_with_its_adapters_off_the_model_is_the_base_and_is_trained_as_before_after_that(base: Path) -> None:
    model = adapted(base, EVERYWHERE)
    before, on, pooled = [name for name, _ in trained(model)], logits(model), torch.ones(3, 32)
    plain = load_model(str(base), torch.float32)
    with torch.no_grad(), lora.adapters_off(model):
        assert torch.equal(logits(model), logits(plain))
        projector, original = model.model.multi_modal_projector, plain.model.multi_modal_projector
        assert torch.equal(projector(pooled), original(pooled))
    with pytest.raises(ArithmeticError), lora.adapters_off(model):
        raise ArithmeticError
    assert torch.equal(logits(model), on)
    assert [name for name, _ in trained(model)] == before


@pytest.mark.heavy
@pytest.mark.parametrize("settings", [EVERYWHERE, LANGUAGE_ALONE], ids=["everywhere", "language"])
def test_peft_loads_an_exported_adapter_on_the_base_model(base: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(base, settings)
    state = {released_name(name): parameter.detach() for name, parameter in trained(model)}
    lora.export_adapter(tmp_path / "adapter", model, state, torch.float32)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    loaded = PeftModel.from_pretrained(
        Qwen2AudioForConditionalGeneration.from_pretrained(base), str(tmp_path / "adapter")
    )
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.lora.dropout=0.1"], ["model.lora.dropout", "log-prob"]),
        (["model.lora.targets=[qproj]"], ["model.lora.targets", "'qproj'", "q_proj, k_proj", "down_proj"]),
        (["model.lora.targets=[]"], ["model.lora.targets", "an empty list"]),
        (["model.lora.targets=[q_proj,fc1]"], ["'fc1'", "model.lora.tower: true"]),
        (["model.lora.targets=[up_proj]", "model.lora.tower=true"], ["model.lora.tower", "out_proj, fc1"]),
        (["model.lora.tower=true", "model.audio_tower=frozen"], ["model.lora.tower", "model.audio_tower: trained"]),
        (["model.lora.rank=8"], ["model.audio_tower: frozen", "model.lora.tower: true"]),
        (["model.lora.rank=0"], ["model.lora.rank", "0", "an integer above 0"]),
        (["model.lora.rank=true", "model.audio_tower=frozen"], ["model.lora.rank", "true"]),
        (["model.lora.rnk=8"], ["model.lora.rnk", "model.lora.rank"]),
        (["model.lora=8"], ["model.lora", "8", "a section or null"]),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_the_key_and_the_mend(
    tmp_path: Path, overrides: list[str], named: list[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("model: {path: m, lora: null}\ndata: {train: t.jsonl}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "mine.yaml"), overrides)
    [problem] = caught.value.problems
    assert all(word in problem for word in named), problem


def test_a_section_of_adapters_is_read_from_overrides_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model: {path: m, audio_tower: frozen, lora: {rank: 8}}\ndata: {train: t.jsonl}\n"
    )
    config = load_config(str(tmp_path / "mine.yaml"), ["model.lora.alpha=64", "model.lora.targets=[q_proj, v_proj]"])
    assert (config.model.lora.rank, config.model.lora.alpha) == (8, 64)
    assert config.model.lora.targets == ("q_proj", "v_proj")
    assert load_config(str(tmp_path / "mine.yaml"), ["model.lora=null"]).model.lora is None
