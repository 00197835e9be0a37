"""Qwen2-Audio checkpoints: load them, name their weights, write them.

One set of names leaves this module, the one of the released checkpoints (`language_model.model...`,
`language_model.lm_head.weight`, `audio_tower...`, `multi_modal_projector...`), which vLLM and transformers both read.
transformers 5 calls the parameters otherwise inside (`model.language_model...`, `lm_head.weight`), and its
`save_pretrained` writes a third form (`language_model.model.model...`) that vLLM refuses. All three are read here.
"""

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
    ModelError,
    copy_processor,
    new_directory,
    read_json,
    resolve,
    stored_shapes,
    stored_tensors,
    tensor_names,
    write_shards,
)
from learner.memory import SHARD_BYTES
from learner.sizes import EMBEDDINGS, HEAD, PROJECTOR, TOWER

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the name that a configuration has for them."""

ENGINE_OVERRIDES = {"tie_word_embeddings": False}
"""vLLM's `hf_overrides`: the engine keeps an `lm_head` apart from the embeddings, as the learner does."""

RELEASED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": TOWER,
    "model.multi_modal_projector.": PROJECTOR,
}
"""Beginning of a parameter's name in transformers 5, and in a released checkpoint."""


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


def load_tensors(path: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(released name, tensor) of the tensors whose released name starts with `prefix`, one at a time.

    A checkpoint with tied embeddings gives them twice, the second time as its `lm_head`.
    """
    directory = resolve(path)
    tied = not _has_head(directory)
    wanted = (prefix, EMBEDDINGS) if tied and HEAD.startswith(prefix) else prefix
    for name, tensor in stored_tensors(directory, lambda name: _released(name).startswith(wanted)):
        name = _released(name)
        if name.startswith(prefix):
            yield name, tensor
        if tied and name == EMBEDDINGS and HEAD.startswith(prefix):
            yield HEAD, tensor.clone()


def load_config(path: str) -> Qwen2AudioConfig:
    """The configuration of the checkpoint at `path`, as of a model with an `lm_head` of its own.

    Tied embeddings are untied here, see `load_model`; `tie_word_embeddings` is false on both levels.
    """
    directory = resolve(path)
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} holds no config.json; name the directory of a Qwen2-Audio checkpoint")
    stored = read_json(file)
    if stored.get("model_type") != "qwen2_audio":
        raise ModelError(f"{file}: model_type is {stored.get('model_type')!r}; only 'qwen2_audio' is supported")
    says_tied = stored.get("tie_word_embeddings") or (stored.get("text_config") or {}).get("tie_word_embeddings")
    if not says_tied and not _has_head(directory):
        raise ModelError(
            f"{directory} has no {HEAD}, and config.json does not say tie_word_embeddings: true; copy the missing "
            f"weights, or set it if the model was trained with tied embeddings"
        )
    config = Qwen2AudioConfig.from_pretrained(directory)
    if "sliding_attention" in config.text_config.layer_types:
        raise ModelError(
            f"{file}: text_config.use_sliding_window is true; attention over a window is not supported, and no "
            f"released Qwen2-Audio uses it"
        )
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    return config


def for_engines(path: str, out: Path) -> Path:
    """A directory that vLLM can load and update: that of `path`, or an export of it at `out` where vLLM cannot.

    vLLM refuses the names that transformers 5 saves, and an update in place of tied embeddings leaves its output
    layer on the old weights. Start engines with `hf_overrides=ENGINE_OVERRIDES` on what this returns.
    """
    directory = resolve(path)
    if _has_head(directory) and all(name == _released(name) for name in tensor_names(directory)):
        return directory
    export_checkpoint(out, load_config(path), load_tensors(path), processor_from=path)
    return out


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
    targets = {checkpoint_name(name): parameter for name, parameter in model.named_parameters()}
    stored = (pair for pair in load_tensors(path) if tower or not pair[0].startswith(TOWER))
    _fill(targets, stored, path)
    return model.eval()


def check_model(path: str) -> None:
    """Raise the `ModelError` that `load_model` would, from the configuration and the headers of the weights alone."""
    expected = expected_shapes(load_config(path))
    stored = {_released(name): shape for name, shape in stored_shapes(resolve(path))}
    if EMBEDDINGS in stored:
        stored.setdefault(HEAD, stored[EMBEDDINGS])  # tied, or `load_config` would have refused
    misshapen = [
        f"{name} {shape} for {tuple(expected[name])}"
        for name, shape in stored.items()
        if name in expected and shape != tuple(expected[name])
    ]
    _refuse(path, sorted({*expected} - {*stored}), [name for name in stored if name not in expected], misshapen)


def load_tower(path: str, dtype: torch.dtype) -> Qwen2AudioEncoder:
    """The audio tower of the checkpoint at `path` alone, in evaluation mode on the CPU; nothing else is read."""
    config = load_config(path)
    with no_init_weights():
        tower = Qwen2AudioEncoder._from_config(config.audio_config, dtype=dtype, attn_implementation="sdpa")
    targets = {TOWER + name: parameter for name, parameter in tower.named_parameters()}
    _fill(targets, load_tensors(path, TOWER), path)
    return tower.eval()


def tower_hash(model: Qwen2AudioForConditionalGeneration | Qwen2AudioEncoder) -> str:
    """SHA-256 over names, types, shapes and bytes of the audio tower's weights: the key of cached tower output."""
    tower = model.model.audio_tower if isinstance(model, Qwen2AudioForConditionalGeneration) else model
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


def expected_shapes(config: Qwen2AudioConfig) -> dict[str, torch.Size]:
    """Released name and shape of every tensor of a model of this configuration."""
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


def _has_head(directory: Path) -> bool:
    return HEAD in map(_released, tensor_names(directory))


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
    """The tensors, checked against the configuration as they pass."""
    shapes = expected_shapes(config)
    missing = set(shapes)
    for name, tensor in named_tensors:
        if name not in shapes:
            _refuse(where, [], [name], [])
        if tensor.shape != shapes[name]:
            _refuse(where, [], [], [f"{name} {tuple(tensor.shape)} for {tuple(shapes[name])}"])
        missing.discard(name)
        yield name, tensor
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
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.save_pretrained(directory)
