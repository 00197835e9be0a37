"""Turn an example into the token ids that an engine is asked.

The prompt is one system line, a user turn with a single audio placeholder and the question, and the assistant's
opening. What comes from the data is tokenised as plain text: a question that spells `<|im_end|>` or `<|AUDIO|>`
cannot end the turn or add a clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from configs.schema import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from data.types import Example

SYSTEM = "You are a helpful assistant."
AUDIO_TOKEN = "<|AUDIO|>"
END_OF_TURN = "<|im_end|>"

_SLOT = "@@the question stands here@@"
"""Stands for the text of the user while the chat template is rendered."""

_SPECIAL = re.compile(r"<\|\w+\|>")

_OPTIONS = re.compile(r"(?:(?<=\s)|\A)[^.?!\n{}]*\{choices\}[.?!]?\s*")
"""The sentence or the line of a prompt that names the choices."""


def render_question(example: Example, prompt: Prompt | str) -> str:
    """The text of the user's turn, after the audio; an open question, without choices, names no options.

    `prompt` is a wording or the name of one; raises `ValueError` for an unknown one.
    """
    wording = Prompt.model_validate(prompt)
    text = wording.text if example.choices else _OPTIONS.sub("", wording.text)
    return text.format(question=example.question, choices=_SHOWN[wording.choices](example.choices))


def _with_letters(choices: Sequence[str]) -> str:
    return " ".join(f"({_letter(number)}) {choice}" for number, choice in enumerate(choices))


def _letter(number: int) -> str:
    """A to Z, then AA, AB, and so on."""
    first = _letter(number // 26 - 1) if number >= 26 else ""
    return first + chr(ord("A") + number % 26)


def _as_lines(choices: Sequence[str]) -> str:
    return "\n".join(f"- {choice}" for choice in choices)


_SHOWN: dict[str, Callable[[Sequence[str]], str]] = {
    "list": lambda choices: str(list(choices)),
    "letters": _with_letters,
    "lines": _as_lines,
}


class PromptEncoder:
    """Encodes examples with a fast tokenizer of Qwen2-Audio's kind, of any vocabulary.

    `chat_template` is a Jinja template. Raises `ValueError` when it does not render one audio placeholder and one
    question, or the tokenizer lacks a special token that it uses.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str, prompt: Prompt | str) -> None:
        self._tokenizer = tokenizer
        self._prompt = Prompt.model_validate(prompt)
        before, after = _around_the_question(tokenizer, chat_template)
        used = sorted({*_SPECIAL.findall(before + after), AUDIO_TOKEN, END_OF_TURN})
        self._check_special(used)
        # Plain text next to the question is tokenised together with it, as it would be in one piece.
        start = max((found.end() for found in _SPECIAL.finditer(before)), default=0)
        first = _SPECIAL.search(after)
        end = first.start() if first else len(after)
        self._head, self._lead = self._ids(before[:start]), before[start:]
        self._trail, self._tail = after[:end], self._ids(after[end:])
        self.audio_token_id = self._id(AUDIO_TOKEN)
        self.eos_token_id = self._id(END_OF_TURN)
        """Ends a completion: the end of the assistant's turn."""

    def encode(self, example: Example) -> tuple[int, ...]:
        """Token ids of the prompt, with exactly one audio placeholder."""
        text = self._lead + render_question(example, self._prompt) + self._trail
        return self._head + self._ids(text, plain=True) + self._tail

    def answer(self, example: Example, thought: str = "") -> tuple[int, ...]:
        """Token ids of the gold answer as the assistant should give it, after a thought or without one, with the end
        of its turn.
        """
        before = f"<think>{thought}</think>" if thought else ""
        return (*self._ids(f"{before}<answer>{example.answer}</answer>", plain=True), self.eos_token_id)

    def _ids(self, text: str, plain: bool = False) -> tuple[int, ...]:
        """Ids of the text; `plain` reads special tokens in it as the characters that they are written with."""
        if not text:
            return ()
        return tuple(self._tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"])

    def _id(self, token: str) -> int:
        return int(self._tokenizer.get_vocab()[token])

    def _check_special(self, used: list[str]) -> None:
        vocabulary = self._tokenizer.get_vocab()
        lacking = [token for token in used if token not in vocabulary]
        if lacking:
            raise ValueError(
                f"model.path: the tokenizer lacks the special tokens {', '.join(lacking)}; "
                "use the tokenizer of a Qwen2-Audio checkpoint, or add them"
            )
        interpreted = set(self._ids("".join(used), plain=True))
        plain = [token for token in used if vocabulary[token] in interpreted]
        if plain:
            raise ValueError(
                f"model.path: the tokenizer does not mark {', '.join(plain)} as special, so that a question could "
                'forge them; set "special": true in its added tokens (and use a fast tokenizer)'
            )


def _around_the_question(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> tuple[str, str]:
    """The rendered prompt before and after the text of the user."""
    content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": _SLOT}]
    chat: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    rendered = str(
        tokenizer.apply_chat_template(chat, chat_template=chat_template, add_generation_prompt=True, tokenize=False)
    )
    before, slot, after = rendered.partition(_SLOT)
    if not slot or _SLOT in after or (before + after).count(AUDIO_TOKEN) != 1:
        raise ValueError(
            f"the chat template renders {rendered.count(_SLOT)} questions and {rendered.count(AUDIO_TOKEN)} of "
            f"{AUDIO_TOKEN} for one question about one clip; use Qwen2-Audio's template"
        )
    return before, after
