"""A penalty on completions that are longer than a target, or far from it, in words.

With `side: above` it is the soft overlong punishment of DAPO (arXiv 2503.14476, section 3.4), on words in place of
tokens since a reward sees texts: `target_words` is its L_max - L_cache, and `slope_words` its L_cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data.types import Example


def length(
    completions: list[str],
    example: Example,
    *,
    target_words: int,
    slope_words: int,
    side: Literal["above", "both"] = "above",
) -> list[float | None]:
    """0 at the target, falling linearly to -1 at `slope_words` from it, and -1 beyond.

    Args:
        completions: words are what white space separates; a tag without a space is part of a word.
        example: not looked at.
        target_words: up to here nothing is lost.
        slope_words: words over which everything is lost.
        side: whether words beyond the target cost, or missing ones too.
    """
    if target_words < 0 or slope_words < 1:
        raise ValueError(
            f"args.target_words is {target_words} and args.slope_words is {slope_words}; give at least 0 and at least 1"
        )
    if side not in ("above", "both"):
        raise ValueError(f"args.side is {side!r}; use one of above, both")
    beyond = [len(text.split()) - target_words for text in completions]
    return [penalty(abs(excess) if side == "both" else excess, slope_words) for excess in beyond]


def penalty(excess: float, slope: float) -> float:
    """0 without an excess, falling linearly to -1 where it is `slope`, and -1 beyond."""
    return max(-max(excess, 0) / slope, -1.0)
