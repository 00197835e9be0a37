"""A random model that hears: near-uniform over its vocabulary, and moved by every clip that it is asked about."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests import tiny_models

NOISE = 0.1
"""Added to every weight: another second of audio then moves some log-prob by 0.3 and more, and the entropy stays
above 90% of the vocabulary's."""


def hearing_model(path: Path, seed: int = 0) -> Path:
    """A checkpoint in `path`/model; another seed gives another policy with the same sizes and vocabulary."""
    model = tiny_models.model_directory(path)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor if "embed_positions" in name else tensor + NOISE * torch.randn(tensor.shape, generator=generator)
        for name, tensor in sorted(load_file(model / "model.safetensors").items())
    }
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model
