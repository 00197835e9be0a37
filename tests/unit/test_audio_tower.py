"""The trimmed tower against the encoder's own forward on 30 seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2AudioEncoderConfig
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from data.audio import MARGIN_FRAMES, audio_tokens
from learner.audio_tower import encode

FRAMES = (3, 4, 5, 120, 121, 299, 1000, 2995, 3000)


@pytest.fixture(scope="module")
def tower() -> Qwen2AudioEncoder:
    torch.manual_seed(0)
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=20, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64
    )
    return Qwen2AudioEncoder._from_config(config, attn_implementation="sdpa").eval()


def whole_mel(seed: int) -> np.ndarray:
    """30 seconds of features that differ from zero after the clip too, as log-mel silence does."""
    return np.random.default_rng(seed).standard_normal((20, 3000), dtype=np.float32)


def trimmed(mel: np.ndarray, valid: int) -> np.ndarray:
    return mel[:, : min(valid + MARGIN_FRAMES, 3000)]


def on_thirty_seconds(tower: Qwen2AudioEncoder, mel: np.ndarray, valid: int) -> Tensor:
    """What the encoder gives on the whole mel with the padding hidden, as transformers' model calls it."""
    mask = torch.zeros(1, 1, 1500, 1500)
    mask[..., (valid - 1) // 2 + 1 :] = float("-inf")
    output = tower(torch.from_numpy(mel)[None], attention_mask=mask).last_hidden_state[0]
    return output[: audio_tokens(valid)]


@pytest.mark.heavy
@torch.no_grad()
def test_every_length_gives_what_the_encoder_gives_on_thirty_seconds(tower: Qwen2AudioEncoder) -> None:
    mels = [whole_mel(valid) for valid in FRAMES]
    found = encode(tower, [trimmed(mel, valid) for mel, valid in zip(mels, FRAMES, strict=True)], FRAMES)
    for mel, valid, output in zip(mels, FRAMES, found, strict=True):
        expected = on_thirty_seconds(tower, mel, valid)
        assert output.shape == (audio_tokens(valid), 32)
        assert (output - expected).abs().max() < 1e-5, valid


@torch.no_grad()
def test_a_clip_does_not_depend_on_the_clips_encoded_with_it(tower: Qwen2AudioEncoder) -> None:
    lengths = (100, 90, 81, 100, 7)
    mels = [trimmed(whole_mel(seed), valid) for seed, valid in enumerate(lengths)]
    together = encode(tower, mels, lengths)
    for mel, valid, output in zip(mels, lengths, together, strict=True):
        assert (output - encode(tower, [mel], [valid])[0]).abs().max() < 1e-5


def test_gradients_reach_every_weight_as_through_the_whole_encoder(tower: Qwen2AudioEncoder) -> None:
    mel, valid = whole_mel(3), 150
    names, trained = zip(*((n, p) for n, p in tower.named_parameters() if p.requires_grad), strict=True)
    expected = torch.autograd.grad(on_thirty_seconds(tower, mel, valid).square().sum(), trained)
    found = torch.autograd.grad(encode(tower, [trimmed(mel, valid)], [valid])[0].square().sum(), trained)
    for name, ours, whole in zip(names, found, expected, strict=True):
        assert torch.allclose(ours, whole, rtol=1e-4, atol=1e-4), name


def test_every_weight_is_used_through_a_call_of_its_own_module(tower: Qwen2AudioEncoder) -> None:
    called = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in tower.named_modules()
    ]
    encode(tower, [trimmed(whole_mel(0), 50)], [50])
    for hook in hooks:
        hook.remove()
    holders = {name.rpartition(".")[0] for name, _ in tower.named_parameters()}
    assert holders <= called


def test_a_clip_too_short_for_one_audio_token_is_refused(tower: Qwen2AudioEncoder) -> None:
    with pytest.raises(ValueError, match="clip 0 has 2 valid mel frames; the tower takes 3 to 3000"):
        encode(tower, [whole_mel(0)[:, :10]], [2])


def test_a_mel_of_too_few_frames_or_other_bins_is_refused(tower: Qwen2AudioEncoder) -> None:
    with pytest.raises(ValueError, match=r"clip 1 has a mel of shape \(20, 100\); \(20, 108\) is needed"):
        encode(tower, [whole_mel(0)[:, :108], whole_mel(1)[:, :100]], [100, 100])
    with pytest.raises(ValueError, match=r"shape \(80, 108\)"):
        encode(tower, [np.zeros((80, 108), np.float32)], [100])
