"""The shared-prefix forward against the model run on every completion by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.audio import log_mel, mel_frames
from data.types import ClipFeatures
from learner import attention, losses
from learner.audio_tower import audio_tokens
from learner.hf import load_model
from learner.hf_files import load_processor
from learner.learner import checkpoint_activations
from learner.packing import Sequences, pack
from learner.policy import MicroBatch, Policy

TEMPERATURE = 0.7


@pytest.fixture
def policy(model: Path) -> Policy:
    return Policy(load_model(str(model), torch.float32), TEMPERATURE)


def clip(model: Path, seconds: float, seed: int) -> ClipFeatures:
    waveform = np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32) * 0.1
    mel = log_mel(waveform, load_processor(str(model)).feature_extractor)
    return ClipFeatures(mel=mel, valid_frames=mel_frames(len(waveform)))


def groups_of(policy: Policy, clips: Sequence[ClipFeatures]) -> list[Sequences]:
    completions = [[[5, 6, 7], [8], [], [9, 10, 11, 12]], [[13, 14], [15, 16, 17]]]
    return [
        Sequences([20, *[policy.audio_token_id] * audio_tokens(c.valid_frames), 21, 22], sampled)
        for c, sampled in zip(clips, completions, strict=True)
    ]


def naive(policy: Policy, group: Sequences, features: ClipFeatures) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and entropies of each completion, from transformers' own forward on the padded clip."""
    model, frames = policy.model, 3000
    model.model.language_model.set_attn_implementation("sdpa")
    mel = torch.full((1, features.mel.shape[0], frames), float(features.mel.min()))
    mel[0, :, : features.mel.shape[1]] = torch.from_numpy(features.mel)
    mask = torch.zeros(1, frames, dtype=torch.long)
    mask[0, : features.valid_frames] = 1
    logprobs, entropies = [], []
    for completion in group.completions:
        if not completion:
            continue
        ids = torch.tensor([[*group.prompt, *completion]])
        logits = model(
            input_ids=ids, input_features=mel, feature_attention_mask=mask, attention_mask=torch.ones_like(ids)
        ).logits[0]
        distribution = torch.log_softmax(logits[len(group.prompt) - 1 : -1] / policy.temperature, -1)
        logprobs.append(distribution.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1))
        entropies.append(-(distribution.exp() * distribution).sum(-1))
    model.model.language_model.set_attn_implementation(policy.attention_kind)
    return logprobs, entropies


def test_packed_groups_give_the_log_probs_and_entropies_of_separate_forwards(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    groups = groups_of(policy, clips)
    logprobs, entropies = policy(MicroBatch(pack(groups), clips))
    expected = [naive(policy, group, features) for group, features in zip(groups, clips, strict=True)]
    torch.testing.assert_close(logprobs, torch.cat([lp for part, _ in expected for lp in part]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, torch.cat([e for _, part in expected for e in part]), atol=1e-5, rtol=1e-5)


def gradients(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def test_gradients_through_the_shared_prompt_are_those_of_separate_forwards(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    groups = groups_of(policy, clips)
    logprobs, entropies = policy(MicroBatch(pack(groups), clips), entropy="gradient")
    scale = torch.linspace(-1, 1, len(logprobs))
    packed = gradients(policy, (scale * logprobs).sum() + 0.1 * entropies.sum())
    expected = [naive(policy, group, features) for group, features in zip(groups, clips, strict=True)]
    flat = torch.cat([lp for part, _ in expected for lp in part])
    entropy = torch.cat([e for _, part in expected for e in part])
    separate = gradients(policy, (scale * flat).sum() + 0.1 * entropy.sum())
    assert_the_same(packed, separate)


def assert_the_same(packed: dict[str, Tensor], separate: dict[str, Tensor]) -> None:
    """Of every parameter by itself."""
    assert packed.keys() == separate.keys()
    for name in packed:
        difference = (packed[name] - separate[name]).norm() / separate[name].norm().clamp_min(1e-6)
        assert difference < 1e-4, f"{name}: {difference:.1e}"


@pytest.mark.heavy
@pytest.mark.parametrize(("beta", "coefficient"), [(0.0, 0.0), (0.04, 0.0), (0.04, 0.01)])
def test_the_gradient_of_grpo_is_that_of_completions_that_are_alone_with_their_prompt(
    policy: Policy, model: Path, beta: float, coefficient: float
) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    groups = groups_of(policy, clips)
    other = moved(Policy(load_model(str(model), torch.float32), TEMPERATURE))
    completions = [completion for group in groups for completion in group.completions]
    advantages = torch.tensor([0.8, -1.2, 0.9, 0.7, 1.0, -0.4])

    batch = MicroBatch(pack(groups), clips)
    owners = torch.from_numpy(batch.packed.owners)
    weights = torch.tensor([1 / (max(len(one), 1) * len(completions)) for one in completions])
    with torch.no_grad():
        reference = other(batch)[0] if beta else None
    logprobs, entropy = policy(batch, entropy="gradient" if coefficient else "value")
    gained, _ = losses.clipped(logprobs, logprobs.detach(), advantages[owners], owners, losses.Clip(0.2, 0.2))
    kl = None if reference is None else losses.kl_k3(logprobs, reference)
    loss = losses.objective(gained, kl, entropy, weights[owners], beta, coefficient / len(owners))
    packed = gradients(policy, loss)

    alone, spreads = [], []
    answered = [value for completion, value in zip(completions, advantages, strict=True) if completion]
    parts = [naive(policy, *pair) for pair in zip(groups, clips, strict=True)]
    with torch.no_grad():
        before = [lp for pair in zip(groups, clips, strict=True) for lp in naive(other, *pair)[0]]
    found = [pair for part in parts for pair in zip(*part, strict=True)]
    for value, (logprob, spread), fixed in zip(answered, found, before, strict=True):
        ratio, apart = (logprob - logprob.detach()).exp(), fixed - logprob
        alone.append((-ratio * value + beta * (apart.exp() - apart - 1)).mean())
        spreads.append(spread)
    by_hand = torch.stack(alone).sum() / len(completions) - coefficient * torch.cat(spreads).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert_the_same(packed, gradients(policy, by_hand))


def moved(policy: Policy) -> Policy:
    """The policy with other weights."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in policy.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    return policy


def test_a_clip_in_the_wrong_place_changes_the_log_probs(policy: Policy, model: Path) -> None:
    clips = [clip(model, 0.4, 0), clip(model, 0.4, 1)]
    groups = groups_of(policy, clips)
    with torch.no_grad():
        policy.model.model.multi_modal_projector.linear.weight.mul_(30)
    right = policy(MicroBatch(pack(groups), clips))[0]
    swapped = policy(MicroBatch(pack(groups), clips[::-1]))[0]
    assert (right - swapped).abs().max() > 1e-4  # rounding alone gives 1e-6


def test_the_tower_hears_a_clip_once_for_all_of_its_groups_and_gets_the_gradient_of_all(
    policy: Policy, model: Path
) -> None:
    features = clip(model, 1.3, 0)
    packed = pack(groups_of(policy, [features, features]))
    apart = gradients(policy, policy(MicroBatch(packed, [features, replace(features)]))[0].sum())
    heard: list[int] = []
    policy.model.model.audio_tower.conv1.register_forward_hook(lambda _, given, __: heard.append(len(given[0])))
    together = gradients(policy, policy(MicroBatch(packed, [features, features]))[0].sum())
    assert heard == [1]
    assert_the_same(together, apart)


def test_policy_and_reference_share_the_mask_of_a_micro_batch(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    batch = MicroBatch(pack(groups_of(policy, clips)), clips)
    given = []
    layer = policy.model.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda _, __, named: given.append(named["attention_mask"]), with_kwargs=True)
    policy(batch)
    policy(batch)
    assert given[0] is given[1]


def test_embeddings_that_do_not_fill_the_placeholders_are_refused(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    with pytest.raises(ValueError, match="audio positions"):
        policy(MicroBatch(pack(groups_of(policy, clips)[:1]), clips[1:]))


def test_a_sampled_placeholder_token_is_a_plain_token(policy: Policy, model: Path) -> None:
    features = clip(model, 0.4, 0)
    prompt = groups_of(policy, [features, features])[0].prompt
    group = Sequences(prompt, [[policy.audio_token_id, 5]])
    assert torch.isfinite(policy(MicroBatch(pack([group]), [features]))[0]).all()


def test_greedy_tokens_are_known_as_the_most_likely(policy: Policy, model: Path) -> None:
    features = clip(model, 0.4, 0)
    prompt = groups_of(policy, [features, features])[0].prompt
    vocabulary = policy.model.config.text_config.vocab_size
    batch = MicroBatch(pack([Sequences(prompt, [[token] for token in range(vocabulary)])]), [features])
    logprobs = policy(batch)[0]
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert policy.most_likely(batch).nonzero().flatten().tolist() == [logprobs.argmax().item()]


@pytest.mark.heavy
def test_flex_attention_gives_the_same_log_probs(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    batch = MicroBatch(pack(groups_of(policy, clips)), clips)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiling the kernel takes a minute on CPUs
        expected, _ = policy(batch)
        logprobs, _ = Policy(policy.model, TEMPERATURE, attention.FLEX)(batch)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


def test_the_gradients_are_the_same_when_activations_are_computed_again(policy: Policy, model: Path) -> None:
    clips = [clip(model, 1.3, 0), clip(model, 0.4, 1)]
    batch = MicroBatch(pack(groups_of(policy, clips)), clips)
    kept = gradients(policy, policy(batch)[0].sum())
    for layer in policy.model.model.audio_tower.layers:
        layer.dropout = layer.activation_dropout = 0.5  # of a checkpoint that was trained with it
    calls: list[int] = []
    policy.model.model.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(0))
    checkpoint_activations(policy.model)
    again = gradients(policy, policy(batch)[0].sum())
    assert len(calls) == 2  # once more in the backward
    assert kept.keys() == again.keys()
    for name in kept:
        torch.testing.assert_close(again[name], kept[name])
