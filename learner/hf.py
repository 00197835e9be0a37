"""Qwen2-Audio checkpoints: load them, name their weights, write them.

One set of names leaves this module, the one of the released checkpoints (`language_model.model...`,
`language_model.lm_head.weight`, `audio_tower...`, `multi_modal_projector...`), which vLLM and transformers both read.
transformers 5 calls the parameters otherwise inside (`model.language_model...`, `lm_head.weight`), and its
`save_pretrained` writes a third form (`language_model.model.model...`) that vLLM refuses. All three are read here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from learner.hf_files import ModelError, resolve, stored_tensors, tensor_names, write_shards

HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
TOWER = "audio_tower."
PROJECTOR = "multi_modal_projector."

RELEASED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": TOWER,
    "model.multi_modal_projector.": PROJECTOR,
}
"""Beginning of a parameter's name in transformers 5, and in a released checkpoint."""

PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""What an export copies from the directory that it takes its processor from, where present."""


def checkpoint_name(parameter_name: str) -> str:
    """Name in a released checkpoint of a parameter of `Qwen2AudioForConditionalGeneration`."""
    for inside, released in RELEASED_PREFIXES.items():
        if parameter_name.startswith(inside):
            return released + parameter_name.removeprefix(inside)
    raise ModelError(f"{parameter_name!r} is no parameter name of Qwen2AudioForConditionalGeneration")


def parameter_name(checkpoint_name: str) -> str:
    """Name in `Qwen2AudioForConditionalGeneration` of a tensor of a released checkpoint."""
    for inside, released in RELEASED_PREFIXES.items():
        if checkpoint_name.startswith(released):
            return inside + checkpoint_name.removeprefix(released)
    raise ModelError(f"{checkpoint_name!r} is no tensor name of a released Qwen2-Audio checkpoint")


def checkpoint_tensors(path: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(released name, tensor) of the stored tensors whose released name starts with `prefix`, one at a time."""
    for name, tensor in stored_tensors(resolve(path), lambda name: _released(name).startswith(prefix)):
        yield _released(name), tensor


def has_released_names(path: str) -> bool:
    """Whether the files name their tensors as released checkpoints do. vLLM loads no others: export those first."""
    return all(name == _released(name) for name in tensor_names(resolve(path)))


def load_config(path: str) -> Qwen2AudioConfig:
    """The configuration, with `tie_word_embeddings` set, at the top and in `text_config`, to what the weights are.

    Tied stays tied. A model is tied where its configuration says so and the checkpoint has no `lm_head`, or one
    equal to the embeddings; a checkpoint whose `lm_head` differs is not, whatever its configuration says.
    """
    directory = resolve(path)
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} holds no config.json; name the directory of a Qwen2-Audio checkpoint")
    try:
        stored = json.loads(file.read_text())
        if stored.get("model_type") != "qwen2_audio":
            raise ModelError(f"{file}: model_type is {stored.get('model_type')!r}; only 'qwen2_audio' is supported")
        config = Qwen2AudioConfig.from_pretrained(directory)
    except json.JSONDecodeError as error:
        raise ModelError(f"{file} is not JSON ({error}); copy it again") from error
    _set_tied(config, _is_tied(directory, stored))
    return config


def engine_overrides(config: Qwen2AudioConfig) -> dict[str, bool]:
    """vLLM's `hf_overrides` that make an engine tie the embeddings exactly where `load_config` does."""
    return {"tie_word_embeddings": config.tie_word_embeddings}


def load_model(path: str, dtype: torch.dtype, tower: bool = True) -> Qwen2AudioForConditionalGeneration:
    """The policy at `path`: a hub id or a directory of any sizes, in evaluation mode on the CPU.

    Saved by transformers 4.4x or 5, single or sharded, embeddings tied or not. Tied embeddings stay one parameter,
    which `named_parameters` gives once, as `embed_tokens`: an engine that is sent it has the same model, since vLLM
    ties by the same rule (see `engine_overrides`). Without `tower` the audio tower is neither read nor built, and
    `model.model.language_model` and `model.model.multi_modal_projector` are what can be called.
    A `ModelError` names missing, unexpected and misshapen tensors.
    """
    config = load_config(path)
    with no_init_weights():
        model = Qwen2AudioForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    if not tower:
        model.model.audio_tower = None
    if config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    skipped = (*((HEAD,) if config.tie_word_embeddings else ()), *(() if tower else (TOWER,)))
    targets = {checkpoint_name(name): parameter for name, parameter in model.named_parameters()}
    stored = ((name, tensor) for name, tensor in checkpoint_tensors(path) if not name.startswith(skipped))
    _fill(targets, stored, path)
    return model.eval()


def load_tower(path: str, dtype: torch.dtype) -> Qwen2AudioEncoder:
    """The audio tower of the checkpoint at `path` alone, in evaluation mode on the CPU; nothing else is read."""
    config = load_config(path)
    with no_init_weights():
        tower = Qwen2AudioEncoder._from_config(config.audio_config, dtype=dtype, attn_implementation="sdpa")
    targets = {TOWER + name: parameter for name, parameter in tower.named_parameters()}
    _fill(targets, checkpoint_tensors(path, TOWER), path)
    return tower.eval()


def tower_hash(model: Qwen2AudioForConditionalGeneration | Qwen2AudioEncoder) -> str:
    """SHA-256 over names, types, shapes and bytes of the audio tower's weights: the key of cached tower output."""
    tower = model.model.audio_tower if isinstance(model, Qwen2AudioForConditionalGeneration) else model
    digest = hashlib.sha256()
    for name, parameter in sorted(tower.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_processor(path: str) -> Qwen2AudioProcessor:
    """Tokenizer, feature extractor and chat template of the checkpoint at `path`."""
    directory = resolve(path)
    needed = {
        "tokenizer": ("tokenizer.json", "vocab.json"),
        "tokenizer configuration": ("tokenizer_config.json",),
        "feature extractor": ("preprocessor_config.json", "processor_config.json"),
    }
    for part, files in needed.items():
        if not any((directory / file).is_file() for file in files):
            raise ModelError(f"{directory} has no {part} ({' or '.join(files)}); copy it from the base checkpoint")
    processor = Qwen2AudioProcessor.from_pretrained(directory)
    expected, found = load_config(path).audio_token_index, processor.audio_token_id
    if found != expected:
        raise ModelError(
            f"{directory}: the tokenizer gives {processor.audio_token} the id {found}, config.json says "
            f"audio_token_index {expected}; tokenizer and model do not belong together"
        )
    return processor


def export_checkpoint(
    path: str | Path,
    config: Qwen2AudioConfig,
    named_tensors: Iterable[tuple[str, Tensor]],
    processor_from: str,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a checkpoint directory that transformers 5 and vLLM both load, under a temporary name, then renamed.

    `named_tensors` have released names and are written in their own type as they come, so that one at a time need be
    in memory. Tokenizer and processor files are copied from `processor_from`. Of tied embeddings the `lm_head` is
    written too, since transformers 5 does not tie Qwen2-Audio and would start it at random. Missing, unexpected and
    misshapen tensors are a `ModelError`, and then nothing is at `path`.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ModelError(f"{path} exists already; export to a new directory or move it away")
    source = resolve(processor_from)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_shards(partial, _checked(config, named_tensors, path), max_shard_bytes)
        _write_config(partial, config)
        for file in PROCESSOR_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, partial / file)
        if not (partial / "generation_config.json").is_file():
            GenerationConfig(eos_token_id=config.text_config.eos_token_id).save_pretrained(partial)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def expected_shapes(config: Qwen2AudioConfig) -> dict[str, torch.Size]:
    """Released name and shape of every tensor of a model of this configuration, `lm_head` included if it is tied."""
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(copy.deepcopy(config))
    return {checkpoint_name(name): parameter.shape for name, parameter in model.named_parameters()}


def _released(stored_name: str) -> str:
    """Released form of a name as any version of transformers stored it."""
    if stored_name.startswith("language_model.model.model."):
        return "language_model." + stored_name.removeprefix("language_model.model.")
    if stored_name.startswith(tuple(RELEASED_PREFIXES)):
        return checkpoint_name(stored_name)
    return stored_name


def _is_tied(directory: Path, stored_config: dict[str, object]) -> bool:
    text_config = stored_config.get("text_config") or {}
    flags = (stored_config.get("tie_word_embeddings"), text_config.get("tie_word_embeddings"))
    if HEAD not in map(_released, tensor_names(directory)):
        if not any(flags):
            raise ModelError(
                f"{directory} has no {HEAD}, and config.json does not say tie_word_embeddings: true; copy the "
                f"missing weights or set it"
            )
        return True
    if not any(flags):
        return False
    head, embeddings = (
        next(tensor for name, tensor in stored_tensors(directory, lambda name: _released(name) == wanted))
        for wanted in (HEAD, EMBEDDINGS)
    )
    return torch.equal(head, embeddings)


def _set_tied(config: Qwen2AudioConfig, tied: bool) -> None:
    config.tie_word_embeddings = tied
    config.text_config.tie_word_embeddings = tied


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
    _refuse(where, sorted(missing), unexpected, misshapen)


def _checked(
    config: Qwen2AudioConfig, named_tensors: Iterable[tuple[str, Tensor]], where: Path
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, `lm_head` added where it is tied, checked against the configuration as they pass."""
    shapes = expected_shapes(config)
    missing = set(shapes)
    tied_head = None
    for name, tensor in named_tensors:
        if name not in shapes:
            _refuse(where, [], [name], [])
        if tensor.shape != shapes[name]:
            _refuse(where, [], [], [f"{name} {tuple(tensor.shape)} for {tuple(shapes[name])}"])
        if name == EMBEDDINGS and getattr(config, "tie_word_embeddings", False):
            tied_head = tensor
        missing.discard(name)
        yield name, tensor
    if HEAD in missing and tied_head is not None:
        missing.discard(HEAD)
        yield HEAD, tied_head.clone()
    _refuse(where, sorted(missing), [], [])


def _refuse(where: str | Path, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    told = [f"{kind}: {_abridged(names)}" for kind, names in problems.items() if names]
    if told:
        raise ModelError(f"{where}: tensors {'; '.join(told)}. config.json and weights do not belong together")


def _abridged(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _write_config(directory: Path, config: Qwen2AudioConfig) -> None:
    config = copy.deepcopy(config)
    _, embeddings = next(stored_tensors(directory, lambda name: name == EMBEDDINGS))
    for part in (config, config.text_config, config.audio_config):
        part.dtype = embeddings.dtype
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    _set_tied(config, bool(getattr(config, "tie_word_embeddings", False)))
    config.save_pretrained(directory)
