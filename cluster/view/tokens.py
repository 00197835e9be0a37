"""Token ids as the text that each stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer


class Tokens:
    """The tokenizer of a run; as long as there is none there is no text.

    Args:
        find: gives where its `tokenizer.json` lies, or None.
    """

    def __init__(self, find: Callable[[], Path | None]) -> None:
        self._find = find
        self._loaded: Tokenizer | None = None
        self._texts: dict[int, str] = {}

    @property
    def _tokenizer(self) -> Tokenizer | None:
        if self._loaded is None and (file := self._find()) is not None:
            self._loaded = Tokenizer.from_file(str(file))
        return self._loaded

    def texts(self, token_ids: Sequence[int]) -> list[str] | None:
        """The text of each token by itself; part of a character is shown as a sign that stands for it."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        for one in set(token_ids) - self._texts.keys():
            self._texts[one] = tokenizer.decode([one], skip_special_tokens=False)
        return [self._texts[one] for one in token_ids]

    def text(self, token_ids: Sequence[int]) -> str | None:
        """The text of all of them, special tokens too."""
        tokenizer = self._tokenizer
        return None if tokenizer is None else tokenizer.decode(list(token_ids), skip_special_tokens=False)
