"""The demo model: a Qwen2-Audio checkpoint small enough for a CPU, with a pretrained ear and an untrained tongue.

The audio tower is Whisper tiny.en's encoder; projector and language model start at random from a seed, and the
vocabulary is trained on the questions that the model will be asked.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from learner.demo import vocabulary, whisper
from learner.hf import export_checkpoint
from learner.released import name_of_parameter

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
"""Never part of a decoded completion."""

ANSWER_TAGS = ("<answer>", "</answer>")
"""One token each, so that an untrained model finds the format soon; ordinary tokens, so that decoding keeps them."""

CHAT_TEMPLATE = """\
{%- set clips = namespace(seen=0) -%}
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{%- set clips.seen = clips.seen + 1 -%}
{{- 'Audio ' ~ clips.seen ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Qwen2-Audio's form: a system line, and `Audio 1: ...` with a newline before the text."""

INITIALIZER_RANGE = 0.04
"""Twice the usual standard deviation: the language model is narrow, and learns sooner from it."""

PROMPT_TEXT = "system\nYou are a helpful assistant.\nuser\nAudio 1: \n{question}\nassistant\n"
"""What of a prompt is text, so that the vocabulary is trained on whole prompts."""


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """Sizes of the language model. Hidden size over heads has to be a head size that vLLM takes (32, 64, 80, ...)."""

    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 2048
    vocabulary_tokens: int = 1000
    """Learned tokens, before special ones and answer tags are added."""


def build(
    out: Path,
    questions: Sequence[str],
    seed: int,
    sizes: LanguageSizes = LanguageSizes(),
    encoder: str | Path | None = None,
) -> None:
    """Write an untrained model to `out`, with a vocabulary for `questions`; the same arguments give the same bytes.

    `encoder` names a Whisper directory, hub id or `model.bin`; default Whisper tiny.en (see `learner.demo.whisper`).
    """
    if sizes.hidden_size % sizes.num_attention_heads or sizes.num_attention_heads % sizes.num_key_value_heads:
        raise ValueError(f"{sizes}: heads must divide the hidden size, and key-value heads the heads")
    weights, ear = whisper.pretrained_encoder(whisper.TINY_EN, encoder)
    tokenizer = _tokenizer(questions, sizes)
    config = _config(sizes, ear, tokenizer)
    write_model(out, config, _tensors(config, weights, seed).items(), tokenizer, ear)


def _tokenizer(questions: Sequence[str], sizes: LanguageSizes) -> Qwen2Tokenizer:
    prompts = [PROMPT_TEXT.format(question=question) for question in questions]
    model = json.loads(vocabulary.train(prompts, sizes.vocabulary_tokens).to_str())["model"]
    learned = model["vocab"]
    added = {token: len(learned) + index for index, token in enumerate(SPECIAL_TOKENS + ANSWER_TAGS)}
    tokenizer = Qwen2Tokenizer(
        vocab=learned | added,
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=sizes.max_position_embeddings,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ANSWER_TAGS])
    return tokenizer


def _config(sizes: LanguageSizes, ear: whisper.EncoderSizes, tokenizer: Qwen2Tokenizer) -> Qwen2AudioConfig:
    language = asdict(sizes) | {"initializer_range": INITIALIZER_RANGE}
    del language["vocabulary_tokens"]
    return model_config(language, ear, tokenizer, initializer_range=INITIALIZER_RANGE)


def model_config(
    language: dict[str, Any], ear: whisper.EncoderSizes, tokenizer: PreTrainedTokenizerBase, **further: Any
) -> Qwen2AudioConfig:
    """The configuration of a model around `ear` whose language model has these sizes and this tokenizer."""
    return Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **asdict(ear)},
        text_config={
            "model_type": "qwen2",
            **language,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
        **further,
    )


def _tensors(config: Qwen2AudioConfig, encoder: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random weights from the seed, the tower's replaced by the encoder's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2AudioForConditionalGeneration(config)
    model.model.audio_tower.load_state_dict(encoder)
    return {name_of_parameter(name): parameter.detach() for name, parameter in model.named_parameters()}


def write_model(
    out: Path,
    config: Qwen2AudioConfig,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    ear: whisper.EncoderSizes,
) -> None:
    """Write a model around `ear` with the files of tokenizer, feature extractor and generation settings."""
    extractor = WhisperFeatureExtractor(feature_size=ear.num_mel_bins, return_attention_mask=True)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    with tempfile.TemporaryDirectory() as processor:
        Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(processor)
        extractor.save_pretrained(processor)
        GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(processor)
        export_checkpoint(out, config, tensors, processor)
