"""The model, the clips and the questions of the benchmarks, made from seeds: nothing is downloaded.

The model is a Qwen2-Audio of 17 M parameters with random weights: large enough that arithmetic, not overhead, takes the
time on a few cores, small enough that a benchmark ends in minutes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from configs.prompts import PROMPTS
from data.audio import SAMPLE_RATE
from learner.demo import tiny_model
from learner.hf import export_checkpoint, load_tensors
from learner.released import load_config
from learner.sizes import EMBEDDINGS, HEAD

VOCABULARY = 1500
"""Tokens of the tokenizer, and rows of the embeddings unless more are asked for."""


def whisper(d_model: int, layers: int, heads: int, ffn_dim: int) -> WhisperConfig:
    """An encoder of these sizes, and the least decoder that there is."""
    return WhisperConfig(
        vocab_size=60,
        num_mel_bins=80,
        d_model=d_model,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=ffn_dim,
        decoder_layers=1,
        decoder_attention_heads=heads,
        decoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )


ENCODER = whisper(d_model=256, layers=4, heads=4, ffn_dim=1024)

LANGUAGE = tiny_model.LanguageSizes(
    hidden_size=384,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=1024,
    vocabulary_tokens=VOCABULARY - len(tiny_model.SPECIAL_TOKENS + tiny_model.ANSWER_TAGS),
)

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
"""What the words of questions and choices are made of."""


def build(
    directory: Path,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
    encoder: WhisperConfig = ENCODER,
    language: tiny_model.LanguageSizes = LANGUAGE,
) -> Path:
    """Write the checkpoint to `directory`, which is returned.

    The tokenizer is the same for all; embeddings beyond it have random weights too.
    """
    if vocabulary < VOCABULARY:
        raise ValueError(f"vocabulary is {vocabulary}; the tokenizer alone has {VOCABULARY} tokens")
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ear, small = Path(temporary) / "ear", Path(temporary) / "model"
        WhisperModel(encoder).save_pretrained(ear)
        texts = [PROMPTS["answer"]["text"].format(question=q, choices=list(c)) for q, c in questions(1000)]
        tiny_model.build(small, texts, seed, language, ear)  # the seed of weights only
        config = load_config(str(small))
        text: Any = config.text_config
        text.vocab_size = vocabulary
        export_checkpoint(directory, config, _with_rows(load_tensors(str(small)), vocabulary), str(small))
    return directory


def clips(seconds: float, count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Waveforms, float32 (samples,) at 16 kHz: chords that fade in and out over noise, each another."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE  # (samples,)
    waveforms = []
    for _ in range(count):
        pitches, rates = generator.uniform(80, 3000, (5, 1)), generator.uniform(0.2, 4, (5, 1))
        tones = np.sin(2 * np.pi * pitches * time) * np.sin(np.pi * rates * time) ** 2  # (5, samples)
        noise = generator.standard_normal(len(time))
        waveforms.append((0.15 * tones.sum(axis=0) + 0.02 * noise).astype(np.float32))
    return waveforms


def questions(count: int, seed: int = 0) -> list[tuple[str, tuple[str, ...]]]:
    """Questions with four choices, in words without meaning; about 80 tokens with template and system line."""
    generator = np.random.default_rng(seed)

    def words(number: int) -> str:
        return " ".join("".join(generator.choice(SYLLABLES, generator.integers(2, 4))) for _ in range(number))

    return [
        (f"Which {words(1)} is heard when the {words(2)} ends?", tuple(words(2) for _ in range(4)))
        for _ in range(count)
    ]


def write_questions(directory: Path, seconds: float, count: int) -> Path:
    """Clips as WAV files and a JSONL file that asks one question about each; gives the file."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    asked = zip(clips(seconds, count), questions(count), strict=True)
    for number, (waveform, (question, choices)) in enumerate(asked):
        name = f"clip-{number}.wav"
        soundfile.write(directory / name, waveform, SAMPLE_RATE, subtype="FLOAT")
        row = {"id": f"question-{number}", "audio": name, "question": question, "choices": choices}
        rows.append(json.dumps({**row, "answer": choices[0]}) + "\n")
    file = directory / "questions.jsonl"
    file.write_text("".join(rows))
    return file


def _with_rows(tensors: Iterator[tuple[str, Tensor]], rows: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors, embeddings and `lm_head` with random rows added up to `rows`."""
    for name, tensor in tensors:
        if name in (EMBEDDINGS, HEAD):
            added = tiny_model.INITIALIZER_RANGE * torch.randn(rows - len(tensor), tensor.shape[1])
            yield name, torch.cat([tensor, added])
        else:
            yield name, tensor
