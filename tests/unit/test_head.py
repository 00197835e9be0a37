"""Log-probabilities and entropies from the output layer in chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from learner import head

VOCABULARY, WIDTH, TEMPERATURE = 500, 16, 0.7


def layer_and_states(tokens: int = 37) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(WIDTH, VOCABULARY, bias=False)
    layer.weight.data = torch.randn(VOCABULARY, WIDTH, generator=generator)
    states = torch.randn(tokens, WIDTH, generator=generator, requires_grad=True)
    return layer, states, torch.randint(VOCABULARY, (tokens,), generator=generator)


def by_hand(layer: nn.Linear, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, all at once."""
    distribution = torch.log_softmax(states.double() @ layer.weight.double().T / TEMPERATURE, -1)
    return distribution[torch.arange(len(targets)), targets], -(distribution.exp() * distribution).sum(-1)


def sharded(layer: nn.Linear) -> nn.Linear:
    """As ZeRO-3 marks a layer whose weight is whole only while it is called."""
    layer.weight.ds_id = 0  # type: ignore[attr-defined]
    return layer


@pytest.mark.parametrize("chunk_tokens", [1000, 10, 1])
@pytest.mark.parametrize("whole", [True, False])
def test_values_and_gradients_are_those_of_all_logits_at_once(
    chunk_tokens: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk_tokens * VOCABULARY)
    layer, states, targets = layer_and_states()
    if not whole:
        sharded(layer)
    logprobs, entropy = head.score(layer, states, targets, TEMPERATURE, "gradient")
    scale = torch.linspace(-1, 1, len(targets))
    gradients = torch.autograd.grad((scale * logprobs + 0.3 * entropy).sum(), (states, layer.weight))
    expected = by_hand(layer, states, targets)
    torch.testing.assert_close((logprobs.double(), entropy.double()), expected, atol=1e-5, rtol=1e-5)
    loss = (scale * expected[0] + 0.3 * expected[1]).sum()
    wanted = torch.autograd.grad(loss, (states, layer.weight))
    for gradient, other in zip(gradients, wanted, strict=True):
        assert (gradient - other).norm() / other.norm() < 1e-5


def test_an_entropy_without_gradient_leaves_that_of_the_log_probs_alone() -> None:
    layer, states, targets = layer_and_states()
    logprobs, entropy = head.score(layer, states, targets, TEMPERATURE, "value")
    assert logprobs.requires_grad
    assert not entropy.requires_grad
    torch.testing.assert_close(entropy.double(), by_hand(layer, states, targets)[1].detach(), atol=1e-5, rtol=1e-5)


def test_a_frozen_output_layer_gets_no_gradient_and_passes_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 10 * VOCABULARY)
    layer, states, targets = layer_and_states()
    layer.requires_grad_(False)
    head.score(layer, states, targets, TEMPERATURE, "value")[0].sum().backward()
    wanted = torch.autograd.grad(by_hand(layer, states, targets)[0].sum(), states)[0]
    assert layer.weight.grad is None
    assert (states.grad - wanted).norm() / wanted.norm() < 1e-5


def test_what_is_kept_for_the_backward_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, states, targets = layer_and_states()

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            head.score(layer, states, targets, TEMPERATURE, "value")
        return max((size for size in sizes if size != layer.weight.numel()), default=0)

    at_once = kept()
    monkeypatch.setattr(head, "CHUNK_LOGITS", 4 * VOCABULARY)
    assert at_once >= len(targets) * VOCABULARY
    assert kept() <= states.numel()
    sharded(layer)
    assert kept() < VOCABULARY


@pytest.mark.parametrize("entropy", ["none", "value", "gradient"])
def test_two_tensors_of_a_chunks_logits_are_held_at_once(
    entropy: head.Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 10 * VOCABULARY)
    layer, states, targets = layer_and_states(40)
    with Held(10 * VOCABULARY) as held:
        logprobs, entropies = head.score(layer, states, targets, TEMPERATURE, entropy)
        (logprobs.sum() + (entropies.sum() if entropy == "gradient" else 0)).backward()
    assert held.most == 2


class Held(TorchDispatchMode):
    """Counts the tensors of one size that are alive beside each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.most = 0
        self._alive: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.numel() == self.size:
            held = StorageWeakRef(made.untyped_storage())
            self._alive[held.cdata] = held
        self._alive = {place: held for place, held in self._alive.items() if not held.expired()}
        self.most = max(self.most, len(self._alive))
        return made


@pytest.mark.parametrize("entropy", ["value", "gradient"])
def test_chunks_in_bfloat16_give_the_gradients_of_float32_to_its_precision(
    entropy: head.Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 10 * VOCABULARY)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        layer, states, targets = layer_and_states()
        layer, states = layer.to(dtype), states.detach().to(dtype).requires_grad_()
        logprobs, entropies = head.score(layer, states, targets, TEMPERATURE, entropy)
        scale = torch.linspace(-1, 1, len(targets))
        loss = (scale * logprobs).sum() + (0.3 * entropies.sum() if entropy == "gradient" else 0)
        gradients.append([one.float() for one in torch.autograd.grad(loss, (states, layer.weight))])
    for exact, coarse in zip(*gradients, strict=True):
        assert (coarse - exact).norm() / exact.norm() < 0.02


def test_ranks_call_the_output_layer_equally_often_whatever_they_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 4 * VOCABULARY)
    calls = []
    for tokens in (37, 5, 1):
        layer, states, targets = layer_and_states(tokens)
        sharded(layer)
        seen: list[int] = []
        layer.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(len(inputs[0])))
        logprobs, _ = head.score(layer, states, targets, TEMPERATURE, "none", most_tokens=37)
        assert len(logprobs) == tokens
        assert max(seen) <= 4
        calls.append(len(seen))
    assert len(set(calls)) == 1
