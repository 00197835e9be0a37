"""A random model that hears: near-uniform over its vocabulary, and moved by every clip that it is asked about."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperModel

from learner.demo import tiny_model
from tests import tiny_models

NOISE = 0.1
"""Added to every weight: another second of audio then moves some log-prob by 0.3 and more, and the entropy stays
above 90% of the vocabulary's."""


def hearing_model(path: Path, seed: int = 0) -> Path:
    """A checkpoint in `path`/model; another seed gives another policy with the same sizes and vocabulary."""
    return shaken(tiny_models.model_directory(path), seed)


def shaken(model: Path, seed: int = 0) -> Path:
    """The checkpoint, with noise on all of its weights."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor if "embed_positions" in name else tensor + NOISE * torch.randn(tensor.shape, generator=generator)
        for name, tensor in sorted(load_file(model / "model.safetensors").items())
    }
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


def other_model(path: Path) -> Path:
    """A checkpoint in `path`/model of other sizes in every part, more mel bins and another tokenizer."""
    layers = {"encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 32}
    encoder = tiny_models.whisper_config(num_mel_bins=128, d_model=48, **layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        WhisperModel(encoder).save_pretrained(path / "whisper")
    sizes = tiny_model.LanguageSizes(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=112,
        max_position_embeddings=1024,
        vocabulary_tokens=347,
    )
    texts = ("Quel animal entend-on ici ?", "Was ist hier zu hören: ein Hund, eine Katze oder eine Kuh?")
    tiny_model.build(path / "model", texts, seed=3, sizes=sizes, encoder=path / "whisper")
    return path / "model"
