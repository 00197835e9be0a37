"""What the rollout actor makes of a clip, without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors import embedder
from actors.embedder import Embedder, Waveforms
from actors.weights.buckets import Bucket, Slot, lay_out, pack
from configs.schema import Config
from data.audio import audio_tokens, log_mel, mel_frames
from data.types import Clip, ClipFeatures
from learner.audio_tower import encode
from learner.hf import load_model, load_tensors, load_tower
from learner.hf_files import load_processor
from learner.sizes import PROJECTOR, TOWER


@pytest.fixture(scope="module")
def model(model: Path) -> str:
    return str(model)


def configured(model: str, tower: str, projector: str) -> Config:
    return Config.model_validate(
        {"model": {"path": model, "audio_tower": tower, "projector": projector}, "data": {"train": "unused"}}
    )


def waveform(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(20_000).astype(np.float32) * 0.1


def heard(model: str, tower: str, seed: int = 0) -> tuple[Clip, ClipFeatures]:
    """A clip as the audio actor prepares it."""
    mel = log_mel(waveform(seed), load_processor(model).feature_extractor)
    frames = mel_frames(len(waveform(seed)))
    clip = Clip(f"sha-{seed}", 1.25, audio_tokens(frames))
    if tower == "trained":
        return clip, ClipFeatures(mel=mel, valid_frames=frames)
    with torch.no_grad():
        return clip, ClipFeatures(pooled=encode(load_tower(model, torch.float32), [mel], [frames])[0].numpy())


def on_thirty_seconds(model: str, weights: dict[str, Tensor] | None = None) -> Tensor:
    """What transformers' own tower and projector give for the first clip."""
    whole = load_model(model, torch.float32)
    for name, tensor in (weights or {}).items():
        whole.get_parameter(f"model.{name}").data.copy_(tensor)
    extractor = load_processor(model).feature_extractor
    mel = torch.from_numpy(
        extractor(waveform(), sampling_rate=16_000, padding="max_length", return_tensors="np").input_features
    )
    frames = mel_frames(len(waveform()))
    mask = torch.zeros(1, 1, 1500, 1500)
    mask[..., (frames - 1) // 2 + 1 :] = float("-inf")
    with torch.no_grad():
        pooled = whole.model.audio_tower(mel, attention_mask=mask).last_hidden_state[0, : audio_tokens(frames)]
        return whole.model.multi_modal_projector(pooled)


def changed(model: str, prefixes: tuple[str, ...]) -> tuple[tuple[Slot, ...], Bucket]:
    """A bucket in which every tensor under the prefixes is another."""
    tensors = [(name, 1.1 * tensor + 0.01) for name, tensor in load_tensors(model) if name.startswith(prefixes)]
    layout = lay_out([(name, tensor.dtype, tensor.shape) for name, tensor in tensors], 10**9)
    [bucket] = pack(layout, tensors)
    return layout.buckets[0], bucket


def embeddings(embedder: Embedder, clip: tuple[Clip, ClipFeatures]) -> Tensor:
    [given] = embedder.input(*clip).data["audio"]
    return given


@pytest.mark.parametrize("tower", ["trained", "frozen"])
def test_embeddings_are_those_of_the_tower_on_thirty_seconds_and_the_projector(model: str, tower: str) -> None:
    made = embeddings(Embedder(configured(model, tower, "trained"), model, 0), heard(model, tower))
    expected = on_thirty_seconds(model)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("tower", "prefixes"), [("trained", (TOWER, PROJECTOR)), ("frozen", (PROJECTOR,))])
def test_an_update_changes_embeddings_and_id_and_leaves_the_rest_to_vllm(
    model: str, tower: str, prefixes: tuple[str, ...]
) -> None:
    clip = heard(model, tower)
    changing = Embedder(configured(model, tower, "trained"), model, 3)
    before, name = embeddings(changing, clip), changing.input(*clip).id
    left = changing.load(4, *changed(model, (*prefixes, "language_model.model.norm")))
    assert [slot.name for slot in left] == ["language_model.model.norm.weight"]
    assert changing.version == 4
    assert changing.input(*clip).id != name
    weights = {key: 1.1 * w + 0.01 for key, w in load_tensors(model) if key.startswith(prefixes)}
    expected = on_thirty_seconds(model, weights)
    assert (embeddings(changing, clip) - expected).abs().max() < 1e-4
    assert (before - expected).abs().max() > 1e-2


def count_encoded(tower: Any) -> list[int]:
    seen: list[int] = []
    tower.layer_norm.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_a_clip_is_encoded_once_in_a_version(model: str) -> None:
    own = Embedder(configured(model, "trained", "trained"), model, 0)
    seen = count_encoded(own._tower)
    first, second = heard(model, "trained", 0), heard(model, "trained", 1)
    assert embeddings(own, first) is embeddings(own, first)
    embeddings(own, second)
    assert len(seen) == 2
    own.load(1, *changed(model, (TOWER, PROJECTOR)))
    embeddings(own, first)
    assert len(seen) == 3


def test_frozen_embeddings_outlive_an_update(model: str) -> None:
    own = Embedder(configured(model, "frozen", "frozen"), model, 7)
    clip = heard(model, "frozen")
    name, made = own.input(*clip).id, embeddings(own, clip)
    slots, bucket = changed(model, ("language_model.",))
    assert own.load(8, slots, bucket) == slots
    assert own.input(*clip).id == name
    assert embeddings(own, clip) is made


def test_what_is_kept_is_bounded_and_the_newest_stays(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Embedder(configured(model, "frozen", "frozen"), model, 0)
    clips = [heard(model, "frozen", seed) for seed in range(4)]
    monkeypatch.setattr(embedder, "KEPT_BYTES", int(2.5 * embeddings(own, clips[0]).nbytes))
    made = [embeddings(own, clip) for clip in clips]
    assert sum(kept.nbytes for kept in own._kept.values()) == own._kept_bytes <= embedder.KEPT_BYTES
    assert embeddings(own, clips[3]) is made[3]
    assert embeddings(own, clips[0]) is not made[0]


def test_waveforms_go_to_vllm_with_every_weight_and_one_id_for_all_versions(model: str) -> None:
    own = Waveforms(configured(model, "trained", "trained"))
    clip = Clip("sha", 1.25, 30)
    given = own.input(clip, ClipFeatures(waveform=waveform()))
    assert given.data["audio"] == [(pytest.approx(waveform()), 16_000)]
    slots, bucket = changed(model, (TOWER, "language_model."))
    assert own.load(1, slots, bucket) == slots
    assert own.input(clip, ClipFeatures(waveform=waveform())).id == given.id


@pytest.mark.parametrize("tower", ["trained", "frozen"])
def test_silence_is_embedded_for_the_warm_up(model: str, tower: str) -> None:
    own = Embedder(configured(model, tower, "trained"), model, 0)
    made = embeddings(own, (Clip("silence", 1.0, 25), own.silence(16_000)))
    assert made.shape == (25, 64)
    assert torch.isfinite(made).all()


def test_weights_are_held_in_the_type_of_the_engine(model: str) -> None:
    config = configured(model, "trained", "trained")
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    own = Embedder(config, model, 0)
    assert embeddings(own, heard(model, "trained")).dtype is torch.bfloat16
    own.load(1, *changed(model, (TOWER, PROJECTOR)))
    assert embeddings(own, heard(model, "trained")).dtype is torch.bfloat16
