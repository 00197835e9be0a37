"""The plain weights of a policy, whatever peft has put between: one name and one tensor for each, adapters merged.

peft keeps an adapted layer's own weight as `base_layer` beside its adapters, and a module that it trains in full as a
copy beside the original. What leaves the learner has none of these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learner.released import name_of_parameter
from learner.sizes import engine_layer

ADAPTER = "default"
"""peft's name of the one adapter that a policy has."""

INNER = re.compile(rf"\.(base_layer|modules_to_save\.{ADAPTER}|{ADAPTER})(?=\.)")
"""What peft puts into the name of a parameter."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of a released checkpoint, and the parameters of the learner that it is made of."""

    name: str
    """Released checkpoint name."""
    parameters: tuple[nn.Parameter, ...]
    """Its own, then those of its adapter; all have to be whole when `value` is called."""
    adapted: Any = None
    """peft's layer where there is an adapter."""

    @property
    def trained(self) -> bool:
        """Whether an update changes it."""
        return any(parameter.requires_grad for parameter in self.parameters)

    @property
    def dtype(self) -> torch.dtype:
        """Type of `value`."""
        return self.parameters[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `value`, which is known of shards too."""
        own = self.parameters[0]
        return tuple(getattr(own, "ds_shape", own.shape))

    @torch.no_grad()
    def value(self) -> Tensor:
        """The tensor in the parameter's own type; an adapter is added in float32."""
        own = self.parameters[0].detach()
        if self.adapted is None:
            return own
        added: Tensor = self.adapted.get_delta_weight(ADAPTER)
        return (own.float() + added.float()).to(own.dtype)


def weights_of(model: nn.Module) -> Iterator[Weight]:
    """Every weight of a `Qwen2AudioForConditionalGeneration`, with adapters or without."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".original_module." in name:
            continue
        layer = adapted.get(name.removesuffix(".base_layer.weight"))
        adapters = [] if layer is None else [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        yield Weight(released_name(name), (parameter, *adapters), layer)


def changed(weights: Iterable[Weight]) -> list[Weight]:
    """The weights that an engine needs after an update: of each layer that changed, all.

    An engine takes a layer whole or not at all; of one that got its weight without its bias, or q without k and v, the
    rest would be whatever lay in memory.
    """
    weights = list(weights)
    layers = {engine_layer(weight.name) for weight in weights if weight.trained}
    return [weight for weight in weights if engine_layer(weight.name) in layers]


def released_name(parameter_name: str) -> str:
    """Released name of a parameter, without peft's inner names: a stable one for an adapter too.

    >>> released_name("model.language_model.layers.0.mlp.up_proj.lora_A.default.weight")
    'language_model.model.layers.0.mlp.up_proj.lora_A.weight'
    """
    return name_of_parameter(INNER.sub("", parameter_name))
