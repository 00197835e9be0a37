"""Qwen2-Audio models: loaded from a checkpoint, and written as one. Names and files are `learner.released`'s."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from learner.hf_files import (
    copy_processor,
    new_directory,
    resolve,
    stored_tensors,
    write_shards,
)
from learner.memory import SHARD_BYTES
from learner.released import has_head, load_config, name_of_parameter, name_of_stored, refuse
from learner.sizes import EMBEDDINGS, HEAD, TOWER, sizes_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the name that a configuration has for them."""


def load_tensors(path: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(released name, tensor) of the tensors whose released name starts with `prefix`, one at a time.

    A checkpoint with tied embeddings gives them twice, the second time as its `lm_head`.
    """
    directory = resolve(path)
    tied = not has_head(directory)
    wanted = (prefix, EMBEDDINGS) if tied and HEAD.startswith(prefix) else prefix
    for name, tensor in stored_tensors(directory, lambda name: name_of_stored(name).startswith(wanted)):
        name = name_of_stored(name)
        if name.startswith(prefix):
            yield name, tensor
        if tied and name == EMBEDDINGS and HEAD.startswith(prefix):
            yield HEAD, tensor.clone()


def load_model(path: str, dtype: torch.dtype, tower: bool = True) -> Qwen2AudioForConditionalGeneration:
    """The policy at `path`: a hub id or a directory of any sizes, in evaluation mode on the CPU.

    Saved by transformers 4.4x or 5, single or sharded, embeddings tied or not. Tied embeddings are untied by copying:
    `lm_head` starts as a copy and is trained as a parameter of its own. So each parameter has one name in learner,
    engine and checkpoint, and an update of every name is an update of the whole model; vLLM ties or unties by rules
    that transformers does not share. Without `tower` the audio tower is neither read nor kept, and
    `model.model.language_model` and `model.model.multi_modal_projector` are what can be called.
    A `ModelError` names missing, unexpected and misshapen tensors.
    """
    config = load_config(path)
    with no_init_weights():
        model = Qwen2AudioForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    if not tower:
        model.model.audio_tower = None
    targets = {name_of_parameter(name): parameter for name, parameter in model.named_parameters()}
    stored = (pair for pair in load_tensors(path) if tower or not pair[0].startswith(TOWER))
    _fill(targets, stored, path)
    return model.eval()


def load_tower(path: str, dtype: torch.dtype) -> Qwen2AudioEncoder:
    """The audio tower of the checkpoint at `path` alone, in evaluation mode on the CPU; nothing else is read."""
    config = load_config(path)
    with no_init_weights():
        tower = Qwen2AudioEncoder._from_config(config.audio_config, dtype=dtype, attn_implementation="sdpa")
    targets = {TOWER + name: parameter for name, parameter in tower.named_parameters()}
    _fill(targets, load_tensors(path, TOWER), path)
    return tower.eval()


def tower_hash(tower: Qwen2AudioEncoder) -> str:
    """SHA-256 over names, types, shapes and bytes of the audio tower's weights: the key of cached tower output."""
    digest = hashlib.sha256()
    for name, parameter in sorted(tower.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def export_checkpoint(
    path: str | Path,
    config: Qwen2AudioConfig,
    named_tensors: Iterable[tuple[str, Tensor]],
    processor_from: str,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint directory that transformers 5 and vLLM both load, under a temporary name, then renamed.

    `named_tensors` have released names, `lm_head` among them, and are written in their own type as they come, so that
    a shard at a time need be in memory. Tokenizer, processor and generation settings are copied from
    `processor_from`. Missing, unexpected and misshapen tensors are a `ModelError`, and then nothing is at `path`.
    """
    path, source = Path(path), resolve(processor_from)
    with new_directory(path) as partial:
        write_shards(partial, _checked(config, named_tensors, path), max_shard_bytes)
        _write_config(partial, config)
        copy_processor(source, partial)
        if not (partial / "generation_config.json").is_file():
            GenerationConfig(eos_token_id=config.text_config.eos_token_id).save_pretrained(partial)


def _fill(targets: dict[str, nn.Parameter], stored: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Copy stored tensors into the parameters of the same name; every parameter is filled or it is an error."""
    missing, unexpected, misshapen = set(targets), [], []
    for name, tensor in stored:
        if name not in targets:
            unexpected.append(name)
        elif tensor.shape != targets[name].shape:
            misshapen.append(f"{name} {tuple(tensor.shape)} for {tuple(targets[name].shape)}")
        else:
            targets[name].data.copy_(tensor)
        missing.discard(name)
    refuse(where, sorted(missing), unexpected, misshapen)


def _checked(
    config: Qwen2AudioConfig, named_tensors: Iterable[tuple[str, Tensor]], where: Path
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, checked against the configuration as they pass."""
    shapes = sizes_of(config.to_dict(), str(where)).shapes()
    missing = set(shapes)
    for name, tensor in named_tensors:
        if name not in shapes:
            refuse(where, [], [name], [])
        if tensor.shape != shapes[name]:
            refuse(where, [], [], [f"{name} {tuple(tensor.shape)} for {shapes[name]}"])
        missing.discard(name)
        yield name, tensor
    refuse(where, sorted(missing), [], [])


def _write_config(directory: Path, config: Qwen2AudioConfig) -> None:
    config = copy.deepcopy(config)
    _, embeddings = next(stored_tensors(directory, lambda name: name == EMBEDDINGS))
    for part in (config, config.text_config, config.audio_config):
        part.dtype = embeddings.dtype
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.save_pretrained(directory)
