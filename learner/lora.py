"""Low-rank adapters through peft (arXiv 2106.09685): put into a model, switched off, and exported.

With adapters the trained parameters are theirs and, where the configuration trains it, the projector's; every other
weight is the base model's for good. The projector is trained as a copy beside the original, so that the model with
its adapters off is the base model exactly: the reference policy, without a second model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from configs.schema import Lora, Model
from learner.hf_files import save_tensors
from learner.released import parameter_name
from learner.weights import ADAPTER

PROJECTOR = "model.multi_modal_projector"
EXPORTED = "base_model.model."
"""What peft puts before a parameter's name in an exported adapter."""


def add_adapters(model: Qwen2AudioForConditionalGeneration, settings: Model, base: str) -> None:
    """Put untrained adapters into a model as `settings.lora` says, and freeze everything else.

    The adapters start from torch's random state and change nothing yet.

    Args:
        model: the base model, changed in place.
        settings: what of it is trained.
        base: directory or hub id of the base model, as an export will name it.
    """
    assert settings.lora is not None
    config = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        target_modules=target_pattern(settings.lora),
        modules_to_save=[PROJECTOR] if settings.projector == "trained" else None,
        base_model_name_or_path=base,
    )
    inject_adapter_in_model(config, model, ADAPTER)


def target_pattern(lora: Lora) -> str:
    """A regular expression of the whole names of the layers that get an adapter, as transformers calls them."""
    language, tower = "|".join(lora.language_targets), "|".join(lora.tower_targets)
    patterns = [rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({language})"] if language else []
    if tower:
        patterns.append(rf"model\.audio_tower\.layers\.\d+\.(self_attn\.)?({tower})")
    return "|".join(patterns)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model within the block. Gradients are for the model with its adapters on: use it under `no_grad`."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def base_policy(policy: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    """The policy as it is with the adapters of its model off, called in the same way."""

    def base(*arguments: Any) -> Any:
        with adapters_off(model):
            return policy(*arguments)

    return base


def export_adapter(
    directory: Path, model: Qwen2AudioForConditionalGeneration, trained: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write adapters in peft's own format, to be loaded on the base model by `peft.PeftModel.from_pretrained`.

    Args:
        directory: made here.
        model: with adapters.
        trained: every trained parameter, whole, by the name that `learner.weights.released_name` gives.
        dtype: to write them in.
    """
    config = copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.save_pretrained(str(directory))
    tensors = {EXPORTED + parameter_name(name): tensor.to(dtype) for name, tensor in trained.items()}
    save_tensors(tensors, directory / SAFETENSORS_WEIGHTS_NAME)
