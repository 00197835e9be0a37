"""The tensors of a Qwen2-Audio model by name and shape, from its config.json alone: no tensor library is imported.

So a plan of a run answers at once, on a machine that holds no weights. Where a config.json leaves a key out, its value
is the default of transformers' configuration classes; the released one leaves out most.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]

HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
TOWER = "audio_tower."
POSITIONS = "audio_tower.embed_positions.weight"
"""Sinusoids, which are never trained."""
PROJECTOR = "multi_modal_projector."

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Layers that an engine keeps as one, by the name of the whole."""

LANGUAGE_DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
TOWER_DEFAULTS = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}

RELEASED: Mapping[str, Any] = {
    "model_type": "qwen2_audio",
    "audio_config": {"num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32},
    "text_config": {"vocab_size": 156032, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
}
"""Sizes of Qwen2-Audio-7B and Qwen2-Audio-7B-Instruct, as in their config.json."""
RELEASED_IDS = ("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B")


class SizesError(ValueError):
    """A config.json that gives no sizes; the message names the file and the mend."""


@dataclass(frozen=True, slots=True)
class Language:
    """The language model's sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Tower:
    """The audio tower's sizes."""

    width: int
    intermediate: int
    layers: int
    mel_bins: int
    positions: int
    """Of 30 seconds, after the second convolution and before pooling."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes, and where they were read."""

    language: Language
    tower: Tower
    source: str

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor by its name in a released checkpoint, the `lm_head` apart from the embeddings."""
        language, tower = self.language, self.tower
        hidden, width = language.hidden, tower.width
        shapes: dict[str, Shape] = {
            EMBEDDINGS: (language.vocabulary, hidden),
            HEAD: (language.vocabulary, hidden),
            "language_model.model.norm.weight": (hidden,),
            f"{PROJECTOR}linear.weight": (hidden, width),
            f"{PROJECTOR}linear.bias": (hidden,),
            f"{TOWER}conv1.weight": (width, tower.mel_bins, 3),
            f"{TOWER}conv1.bias": (width,),
            f"{TOWER}conv2.weight": (width, width, 3),
            f"{TOWER}conv2.bias": (width,),
            POSITIONS: (tower.positions, width),
            **_norm(f"{TOWER}layer_norm", width),
        }
        queries, keys = language.heads * language.head_size, language.key_value_heads * language.head_size
        for number in range(language.layers):
            layer = f"language_model.model.layers.{number}."
            for name, rows in (("q", queries), ("k", keys), ("v", keys)):
                shapes |= _linear(f"{layer}self_attn.{name}_proj", rows, hidden)
            shapes |= _linear(f"{layer}self_attn.o_proj", hidden, queries, bias=False)
            shapes |= _linear(f"{layer}mlp.gate_proj", language.intermediate, hidden, bias=False)
            shapes |= _linear(f"{layer}mlp.up_proj", language.intermediate, hidden, bias=False)
            shapes |= _linear(f"{layer}mlp.down_proj", hidden, language.intermediate, bias=False)
            shapes |= {f"{layer}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        for number in range(tower.layers):
            layer = f"{TOWER}layers.{number}."
            for name in ("q", "k", "v", "out"):
                shapes |= _linear(f"{layer}self_attn.{name}_proj", width, width, bias=name != "k")
            shapes |= _linear(f"{layer}fc1", tower.intermediate, width)
            shapes |= _linear(f"{layer}fc2", width, tower.intermediate)
            shapes |= _norm(f"{layer}self_attn_layer_norm", width) | _norm(f"{layer}final_layer_norm", width)
        return shapes

    def count(self, wanted: Callable[[str], bool] = lambda name: True) -> int:
        """Numbers in the tensors whose released name is wanted."""
        return sum(prod(shape) for name, shape in self.shapes().items() if wanted(name))


def sizes_of(config: Mapping[str, Any], source: str) -> Sizes:
    """The sizes that a config.json gives; `source` names it in errors and in plans."""
    if config.get("model_type") != "qwen2_audio":
        raise SizesError(f"{source}: model_type is {config.get('model_type')!r}; only 'qwen2_audio' is supported")
    text = LANGUAGE_DEFAULTS | (config.get("text_config") or {})
    audio = TOWER_DEFAULTS | (config.get("audio_config") or {})
    for section, keys in ((text, LANGUAGE_DEFAULTS), (audio, TOWER_DEFAULTS)):
        for key in keys:
            if key == "num_key_value_heads" and section[key] is None:
                section[key] = section["num_attention_heads"]
            if not isinstance(section[key], int) or section[key] < 1:
                raise SizesError(f"{source}: {key} is {section[key]!r}, not a count; copy the file again")
    return Sizes(
        Language(
            text["hidden_size"],
            text["intermediate_size"],
            text["num_hidden_layers"],
            text["num_attention_heads"],
            text["num_key_value_heads"],
            text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            text["vocab_size"],
        ),
        Tower(
            audio["d_model"],
            audio["encoder_ffn_dim"],
            audio["encoder_layers"],
            audio["num_mel_bins"],
            audio["max_source_positions"],
        ),
        source,
    )


def find_sizes(path_or_id: str) -> Sizes | None:
    """Sizes of a model directory, or of a hub id from the user's cache, else from what is known of the released models.

    Nothing is fetched: None where this machine knows nothing of the model.
    """
    directory = Path(path_or_id).expanduser()
    if directory.is_dir():
        file = directory / "config.json"
        return _read(file) if file.is_file() else None
    if cached := _cached(path_or_id):
        return _read(cached)
    if path_or_id in RELEASED_IDS:
        return sizes_of(RELEASED, f"the sizes known of {path_or_id}")
    return None


def _cached(hub_id: str) -> Path | None:
    """The config.json of a hub repository that the user has fetched before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:  # a path, not an id
        return None
    return Path(found) if isinstance(found, str) else None


def _read(file: Path) -> Sizes:
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise SizesError(f"{file} is not JSON ({error}); copy it again") from error
    return sizes_of(config if isinstance(config, dict) else {}, str(file))


def engine_layer(name: str) -> str:
    """The layer of an engine that a tensor is loaded into.

    >>> engine_layer("language_model.model.layers.0.self_attn.q_proj.weight")
    'language_model.model.layers.0.self_attn.qkv_proj'
    """
    *parents, layer, _ = name.split(".")
    return ".".join([*parents, FUSED.get(layer, layer)])


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
