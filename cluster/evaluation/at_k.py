"""What k sampled completions of a question are worth: pass@k and majority@k, estimated from n >= k of them. Pure.

Both are means over all sets of k of the n completions, computed exactly and not by drawing sets, and so are unbiased
for k fresh completions: neither depends on the order in which the n were sampled.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4 and so on up to `most`."""
    return [1 << exponent for exponent in range(most.bit_length())]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that one of k completions is right: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374, equation 1)."""
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_at_k(predictions: Sequence[str], answer: str, k: int) -> float:
    """Probability that the prediction which most of k completions give is the answer.

    Of several predictions that are given equally often, the most often, each wins with the same probability.

    Args:
        predictions: of all n completions, in a form in which equal ones are equal.
        answer: in the same form.
        k: how many vote, at most n.
    """
    votes = Counter(predictions)
    right = votes.pop(answer, 0)
    return _share_won(right, tuple(sorted(votes.values())), k)


@lru_cache(maxsize=4096)
def _share_won(right: int, others: tuple[int, ...], k: int) -> float:
    """Share of the sets of k votes that the answer wins, a tie of t predictions as 1 / t.

    Args:
        right: votes for the answer among all n.
        others: votes for each other prediction, which with `right` make n.
        k: votes in a set.
    """
    won = Fraction(0)
    for given in range(1, min(right, k) + 1):
        for ties, sets in _sets_without_more(others, given, k - given).items():
            won += Fraction(math.comb(right, given) * sets, ties + 1)
    return float(won / math.comb(right + sum(others), k))


def _sets_without_more(others: tuple[int, ...], most: int, size: int) -> dict[int, int]:
    """Sets of `size` votes in which no prediction has more than `most`, counted by how many have exactly so many."""
    found: dict[tuple[int, int], int] = {(0, 0): 1}  # by votes in the set and predictions with `most` of them
    for votes in others:
        longer: defaultdict[tuple[int, int], int] = defaultdict(int)
        for (taken, ties), sets in found.items():
            for more in range(min(votes, most, size - taken) + 1):
                longer[taken + more, ties + (more == most)] += sets * math.comb(votes, more)
        found = longer
    return {ties: sets for (taken, ties), sets in found.items() if taken == size}
