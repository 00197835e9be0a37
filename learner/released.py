"""Qwen2-Audio checkpoints by their files: names, configuration, and whether one can be used. No model is built.

One set of names leaves the learner, the one of the released checkpoints (`language_model.model...`,
`language_model.lm_head.weight`, `audio_tower...`, `multi_modal_projector...`), which vLLM and transformers both read.
transformers 5 calls the parameters otherwise inside (`model.language_model...`, `lm_head.weight`), and its
`save_pretrained` writes a third form (`language_model.model.model...`) that vLLM refuses. All three are read here.

The control loop imports this, and not `learner.hf`: torch and transformers' models take ten seconds of a CPU to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.hf_files import ModelError, read_json, resolve, stored_shapes, tensor_names
from learner.sizes import EMBEDDINGS, HEAD, PROJECTOR, TOWER, SizesError, sizes_of

if TYPE_CHECKING:
    from transformers import Qwen2AudioConfig

ENGINE_OVERRIDES = {"tie_word_embeddings": False}
"""vLLM's `hf_overrides`: the engine keeps an `lm_head` apart from the embeddings, as the learner does."""

RELEASED_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": TOWER,
    "model.multi_modal_projector.": PROJECTOR,
}
"""Beginning of a parameter's name in transformers 5, and in a released checkpoint."""


def name_of_parameter(parameter_name: str) -> str:
    """Name in a released checkpoint of a parameter of `Qwen2AudioForConditionalGeneration`."""
    for inside, released in RELEASED_PREFIXES.items():
        if parameter_name.startswith(inside):
            return released + parameter_name.removeprefix(inside)
    raise ModelError(f"{parameter_name!r} is no parameter name of Qwen2AudioForConditionalGeneration")


def parameter_name(released_name: str) -> str:
    """Name in `Qwen2AudioForConditionalGeneration` of a tensor of a released checkpoint."""
    for inside, released in RELEASED_PREFIXES.items():
        if released_name.startswith(released):
            return inside + released_name.removeprefix(released)
    raise ModelError(f"{released_name!r} is no tensor name of a released Qwen2-Audio checkpoint")


def load_config(path: str) -> Qwen2AudioConfig:
    """The configuration of the checkpoint at `path`, as of a model with an `lm_head` of its own.

    Tied embeddings are untied, see `learner.hf.load_model`; `tie_word_embeddings` is false on both levels.
    """
    from transformers import Qwen2AudioConfig

    directory = resolve(path)
    _stored_config(directory)
    config = Qwen2AudioConfig.from_pretrained(directory)
    text: Any = config.text_config
    if "sliding_attention" in text.layer_types:
        raise ModelError(
            f"{directory / 'config.json'}: text_config.use_sliding_window is true; attention over a window is not "
            f"supported, and no released Qwen2-Audio uses it"
        )
    config.tie_word_embeddings = text.tie_word_embeddings = False
    return config


def _stored_config(directory: Path) -> dict[str, Any]:
    """What config.json says, of a model that is one of ours and whose weights fit what it says of ties."""
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} holds no config.json; name the directory of a Qwen2-Audio checkpoint")
    stored = read_json(file)
    if stored.get("model_type") != "qwen2_audio":
        raise ModelError(f"{file}: model_type is {stored.get('model_type')!r}; only 'qwen2_audio' is supported")
    says_tied = stored.get("tie_word_embeddings") or (stored.get("text_config") or {}).get("tie_word_embeddings")
    if not says_tied and not has_head(directory):
        raise ModelError(
            f"{directory} has no {HEAD}, and config.json does not say tie_word_embeddings: true; copy the missing "
            f"weights, or set it if the model was trained with tied embeddings"
        )
    return stored


def for_engines(path: str, out: Path) -> Path:
    """A directory that vLLM can load and update: that of `path`, or an export of it at `out` where vLLM cannot.

    vLLM refuses the names that transformers 5 saves, and an update in place of tied embeddings leaves its output
    layer on the old weights. Start engines with `hf_overrides=ENGINE_OVERRIDES` on what this returns.
    """
    directory = resolve(path)
    if has_head(directory) and all(name == name_of_stored(name) for name in tensor_names(directory)):
        return directory
    from learner.hf import export_checkpoint, load_tensors

    export_checkpoint(out, load_config(path), load_tensors(path), processor_from=path)
    return out


def check_model(path: str) -> None:
    """Raise the `ModelError` that `load_model` would, from config.json and the headers of the weights alone."""
    directory = resolve(path)
    config = _stored_config(directory)
    text = config.get("text_config") or {}
    if text.get("use_sliding_window") or "sliding_attention" in (text.get("layer_types") or ()):
        load_config(path)  # knows whether a layer really has a window
    try:
        expected = sizes_of(config, str(directory / "config.json")).shapes()
    except SizesError as error:
        raise ModelError(str(error)) from error
    stored = {name_of_stored(name): shape for name, shape in stored_shapes(directory)}
    if EMBEDDINGS in stored:
        stored.setdefault(HEAD, stored[EMBEDDINGS])  # tied, or the configuration would have been refused
    misshapen = [
        f"{name} {shape} for {expected[name]}"
        for name, shape in stored.items()
        if name in expected and shape != expected[name]
    ]
    refuse(path, sorted({*expected} - {*stored}), [name for name in stored if name not in expected], misshapen)


def name_of_stored(stored_name: str) -> str:
    """Released form of a name as any version of transformers stored it."""
    if stored_name.startswith("language_model.model.model."):
        return "language_model." + stored_name.removeprefix("language_model.model.")
    if stored_name.startswith(tuple(RELEASED_PREFIXES)):
        return name_of_parameter(stored_name)
    return stored_name


def has_head(directory: Path) -> bool:
    """Whether a checkpoint holds an `lm_head`; else its embeddings are tied."""
    return HEAD in map(name_of_stored, tensor_names(directory))


def refuse(where: str | Path, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
    """Raise a `ModelError` that names tensors which are not as the configuration says, if there are any."""
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    told = [f"{kind}: {_abridged(names)}" for kind, names in problems.items() if names]
    if told:
        raise ModelError(f"{where}: tensors {'; '.join(told)}. config.json and weights do not belong together")


def _abridged(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
