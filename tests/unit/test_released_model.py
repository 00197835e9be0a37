"""The 7B model that we build is the released one, tensor by tensor, as far as that can be told without its weights.

The names and shapes are written here from the architecture: Qwen2 with biases on q, k and v alone, Whisper's encoder
with no bias on k and a pooled output, one linear layer between them, and an output layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from configs.load import load_config
from learner.released import name_of_parameter, parameter_name
from learner.sizes import RELEASED, RELEASED_IDS, find_sizes
from tests.tiny_models import expected_shapes

PUBLISHED_PARAMETERS = 8_397_094_912
"""Of Qwen2-Audio-7B-Instruct, as the hub counts them in its safetensors."""

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 32, 4096, 11008, 156032
TOWER_LAYERS, WIDTH, TOWER_INTERMEDIATE, MEL_BINS, POSITIONS = 32, 1280, 5120, 128, 1500


def described() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the released checkpoint."""
    yield "language_model.model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "language_model.lm_head.weight", (VOCABULARY, HIDDEN)
    yield "language_model.model.norm.weight", (HIDDEN,)
    for n in range(LAYERS):
        layer = f"language_model.model.layers.{n}"
        for letter in "qkv":
            yield f"{layer}.self_attn.{letter}_proj.weight", (HIDDEN, HIDDEN)
            yield f"{layer}.self_attn.{letter}_proj.bias", (HIDDEN,)
        yield f"{layer}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{layer}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
    yield "multi_modal_projector.linear.weight", (HIDDEN, WIDTH)
    yield "multi_modal_projector.linear.bias", (HIDDEN,)
    yield "audio_tower.conv1.weight", (WIDTH, MEL_BINS, 3)
    yield "audio_tower.conv1.bias", (WIDTH,)
    yield "audio_tower.conv2.weight", (WIDTH, WIDTH, 3)
    yield "audio_tower.conv2.bias", (WIDTH,)
    yield "audio_tower.embed_positions.weight", (POSITIONS, WIDTH)
    for n in range(TOWER_LAYERS):
        layer = f"audio_tower.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}.weight", (WIDTH, WIDTH)
            if name != "k_proj":
                yield f"{layer}.self_attn.{name}.bias", (WIDTH,)
        yield f"{layer}.fc1.weight", (TOWER_INTERMEDIATE, WIDTH)
        yield f"{layer}.fc1.bias", (TOWER_INTERMEDIATE,)
        yield f"{layer}.fc2.weight", (WIDTH, TOWER_INTERMEDIATE)
        yield f"{layer}.fc2.bias", (WIDTH,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{layer}.{name}.weight", (WIDTH,)
            yield f"{layer}.{name}.bias", (WIDTH,)
    yield "audio_tower.layer_norm.weight", (WIDTH,)
    yield "audio_tower.layer_norm.bias", (WIDTH,)


def released_config() -> Qwen2AudioConfig:
    return Qwen2AudioConfig(**{key: value for key, value in RELEASED.items() if key != "model_type"})


def test_transformers_class_has_the_described_tensors_under_our_names_and_no_other() -> None:
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(released_config())
    ours = {name_of_parameter(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == dict(described())
    assert {parameter_name(name) for name in ours} == {name for name, _ in model.named_parameters()}
    assert model.lm_head.weight is not model.get_input_embeddings().weight


def test_every_way_to_the_shapes_gives_the_described_ones() -> None:
    expected = dict(described())
    assert {name: tuple(shape) for name, shape in expected_shapes(released_config()).items()} == expected
    assert find_sizes("Qwen/Qwen2-Audio-7B-Instruct").shapes() == expected


def test_the_parameters_are_as_many_as_are_published() -> None:
    assert sum(prod(shape) for _, shape in described()) == PUBLISHED_PARAMETERS


def test_the_preset_trains_that_model_by_the_papers_recipe() -> None:
    config = load_config("qwen2_audio_7b")
    algorithm, learner = config.algorithm, config.learner
    assert config.model.path in RELEASED_IDS
    assert (config.model.audio_tower, config.model.projector, config.model.lora) == ("trained", "trained", None)
    assert (config.run.max_steps, algorithm.prompts_per_step, algorithm.group_size) == (1000, 16, 8)
    assert (learner.learning_rate, learner.schedule, learner.warmup_steps) == (1e-6, "linear", 0)
    assert (learner.zero_stage, learner.offload) == (3, "optimizer")
    assert (learner.weight_decay, learner.betas, learner.max_grad_norm) == (0.0, (0.9, 0.999), 1.0)
    assert (config.rollout.temperature, config.rollout.max_completion_tokens) == (1.0, 256)
    assert (algorithm.name, algorithm.beta, algorithm.updates_per_step, algorithm.max_staleness) == ("grpo", 0.04, 1, 0)
    assert [(reward.use, reward.weight) for reward in config.rewards] == [("accuracy", 1.0), ("format", 1.0)]
    assert (config.data.format, config.data.prompt.model_dump(), config.model.dtype) == ("avqa", "answer", "bfloat16")
