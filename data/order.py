"""In which order questions and choices are asked, and with which random seed. Pure, and resumable from one integer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from data.types import Example


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Draw:
    """One question's turn."""

    epoch: int
    index: int
    """Into the examples as loaded."""


class DataOrder:
    """A new permutation each epoch, from the run's seed. `position` is all that a resume needs.

    >>> order = DataOrder(3, seed=0)
    >>> first = [order.take() for _ in range(6)]
    >>> sorted(draw.index for draw in first[:3]), first[3].epoch
    ([0, 1, 2], 1)
    >>> resumed = DataOrder(3, seed=0, position=4)
    >>> resumed.take() == first[4]
    True
    """

    def __init__(self, count: int, seed: int, position: int = 0) -> None:
        if count < 1:
            raise ValueError("there is no question to draw")
        self.count = count
        self.seed = seed
        self.position = position
        self._permutations: dict[int, list[int]] = {}

    def take(self) -> Draw:
        """The next question."""
        draw = self.at(self.position)
        self.position += 1
        return draw

    def at(self, position: int) -> Draw:
        """The question of any turn, past or coming."""
        epoch, place = divmod(position, self.count)
        if epoch not in self._permutations:
            generator = np.random.Generator(np.random.PCG64(hash_seed(self.seed, "order", epoch)))
            self._permutations[epoch] = generator.permutation(self.count).tolist()
            self._permutations.pop(epoch - 2, None)  # an epoch that goes on may be looked beyond
        return Draw(epoch, self._permutations[epoch][place])


def shuffle_choices(example: Example, seed: int) -> Example:
    """The example with its choices in an order that the seed alone decides; its answer is a text and stays."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(example.choices))
    return replace(example, choices=tuple(example.choices[place] for place in order))


def spaced(items: Sequence[Item], count: int | None) -> tuple[Item, ...]:
    """So many of the items, evenly spaced and in their order; all where there are no more or `count` is None.

    >>> spaced("abcdefg", 3)
    ('a', 'c', 'e')
    """
    if count is None or count >= len(items):
        return tuple(items)
    return tuple(items[number * len(items) // count] for number in range(count))


def hash_seed(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same everywhere.

    vLLM gives child i of a request the seed s + i, so seeds of consecutive prompts must not be consecutive: a hash.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
