"""Questions asked about other clips, to see what an accuracy rests on. Pure; the seed decides every draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from data.order import hash_seed


def other_recordings(recordings: Sequence[str], seed: int) -> list[int]:
    """For each question the number of another one, about another recording, whose clip it is asked with.

    Every clip is given away once. Questions are put in a row with those about one recording together, recordings and
    questions in an order that the seed draws; each takes the clip from as many places further on as the most frequent
    recording has questions, around the end of the row.

    Args:
        recordings: what each question is about.
        seed: draws the row.

    Raises:
        ValueError: more than half of the questions are about one recording, so that no such exchange exists.
    """
    if not recordings:
        return []
    [(name, most)] = Counter(recordings).most_common(1)
    if 2 * most > len(recordings):
        raise ValueError(f"{most} of {len(recordings)} questions are about one recording, {name}: more than half")
    row = sorted(
        range(len(recordings)),
        key=lambda number: (hash_seed(seed, recordings[number]), recordings[number], hash_seed(seed, number)),
    )
    given = [0] * len(row)
    for place, number in enumerate(row):
        given[number] = row[(place + most) % len(row)]
    return given
