"""Models of random weights, small enough to build in a test."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperModel,
)

from learner.demo import tiny_model, vocabulary
from learner.released import name_of_parameter

TEXTS = (
    "Which animal is heard? Please choose the answer from the following options: ['a dog', 'a cat', 'a cow'].",
    "What does the voice say? Output the final answer in <answer> </answer>.",
)

LANGUAGE = tiny_model.LanguageSizes(
    hidden_size=64, num_attention_heads=2, num_key_value_heads=1, intermediate_size=128, vocabulary_tokens=300
)


def whisper_config(**sizes: int) -> WhisperConfig:
    """A Whisper of these sizes, of whose decoder nothing is used."""
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    return WhisperConfig(vocab_size=60, decoder_layers=1, decoder_attention_heads=2, **tokens, **sizes)


def whisper_directory(path: Path) -> Path:
    """A Whisper checkpoint with an encoder of 2 layers x 32, as transformers saves it."""
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = whisper_config(num_mel_bins=80, d_model=32, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = WhisperModel(config)
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)  # no two norms alike
        model.save_pretrained(path)
    return path


def model_directory(path: Path) -> Path:
    """A Qwen2-Audio checkpoint of 2 layers x 64 around that encoder, in `path`/model."""
    tiny_model.build(path / "model", TEXTS, seed=0, sizes=LANGUAGE, encoder=whisper_directory(path / "whisper"))
    return path / "model"


def text_model_directory(path: Path) -> Path:
    """A Qwen2 checkpoint of 2 layers x 64 that reads and writes text alone, with a chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.train(TEXTS, LANGUAGE.vocabulary_tokens),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=tiny_model.CHAT_TEMPLATE,
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=LANGUAGE.hidden_size,
        intermediate_size=LANGUAGE.intermediate_size,
        num_hidden_layers=2,
        num_attention_heads=LANGUAGE.num_attention_heads,
        num_key_value_heads=LANGUAGE.num_key_value_heads,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def expected_shapes(config: Qwen2AudioConfig) -> dict[str, torch.Size]:
    """Released name and shape of every tensor of a model of this configuration."""
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(copy.deepcopy(config))
    return {name_of_parameter(name): parameter.shape for name, parameter in model.named_parameters()}


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    """What a model makes of the same tokens each time, (1, T, vocabulary)."""
    found: Tensor = model.eval()(input_ids=torch.arange(10, 60)[None]).logits
    return found
