"""A small byte-level BPE vocabulary, trained on the texts that it will read."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenisation: no merge crosses these pieces. Its tokenizer class applies this pattern whatever the
vocabulary, so the vocabulary has to be trained with it."""


def train(texts: Sequence[str], vocabulary_tokens: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary_tokens` tokens, the 256 bytes among them.

    The same texts give the same vocabulary. A `ValueError` names what is too little.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary_tokens < len(alphabet):
        raise ValueError(f"vocabulary_tokens is {vocabulary_tokens}; the bytes alone take {len(alphabet)}")
    if not any(texts):
        raise ValueError("no text to train a vocabulary on; give at least one question")
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=vocabulary_tokens, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
