"""A penalty on repeated n-grams, against completions that go round in circles.

The penalty of arXiv 2502.03373 (appendix C.2) taken over the whole completion: there every token of a repeated n-gram
is penalised by itself, here the value is the share of n-grams that were there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.types import Example


def repetition(completions: list[str], example: Example, *, ngram_words: int = 3) -> list[float | None]:
    """-(1 - different n-grams / all n-grams): 0 without repetition, towards -1 where one n-gram is all there is.

    Args:
        completions: words are what white space separates, in lower case.
        example: not looked at.
        ngram_words: words of an n-gram; a completion with fewer words gets 0.
    """
    if ngram_words < 1:
        raise ValueError(f"args.ngram_words is {ngram_words}; give at least 1")
    return [_penalty(text.lower().split(), ngram_words) for text in completions]


def _penalty(words: list[str], size: int) -> float:
    ngrams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return len(set(ngrams)) / len(ngrams) - 1.0 if ngrams else 0.0
