"""The split into training, validation and test: by recording, near-duplicates on one side.

Clusters of near-duplicates are dealt out, label by label, so that every answer is on every side where it has enough
recordings; the first of a label goes to training.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from data.demo import labels
from data.demo.duplicates import Pair
from data.demo.recordings import Recording

SHARES = {"train": 0.66, "validation": 0.11, "test": 0.23}
FINEST = (
    labels.WORD,
    labels.COLOUR,
    labels.DIGIT,
    labels.ANIMAL,
    labels.MACHINE,
    labels.HUMAN,
    labels.INSTRUMENT,
    labels.DRUM,
    labels.LANGUAGE,
    labels.SOURCE,
    labels.FAMILY,
)
"""Kinds from the rarest labels to the most common."""


class LeakError(ValueError):
    """One recording, or two that are the same sound, on two sides of the split."""


def assign(recordings: Sequence[Recording], clusters: Sequence[int], seed: int) -> list[str]:
    """Side of each recording: `train`, `validation` or `test`."""
    strata: dict[str, list[int]] = defaultdict(list)
    for cluster in sorted(set(clusters)):
        strata[_finest(recordings[cluster])].append(cluster)
    side: dict[int, str] = {}
    for stratum in sorted(strata):
        order = strata[stratum]
        random.Random(f"split:{seed}:{stratum}").shuffle(order)
        counts = dict.fromkeys(SHARES, 0)
        for dealt, cluster in enumerate(order, start=1):
            side[cluster] = max(SHARES, key=lambda name: SHARES[name] * dealt - counts[name])
            counts[side[cluster]] += 1
    return [side[cluster] for cluster in clusters]


def _finest(recording: Recording) -> str:
    kind = next(kind for kind in FINEST if kind in recording.labels)
    return f"{kind}: {recording.labels[kind]}"


def check_split(recordings: Sequence[Recording], sides: Sequence[str], pairs: Iterable[Pair]) -> None:
    """Raise `LeakError` if a file, a clip's waveform, a prompt or a near-duplicate stands on two sides."""
    seen: dict[object, int] = {}
    for index, recording in enumerate(recordings):
        marks: list[object] = [recording.key, recording.waveform.tobytes()]
        if recording.prompt:
            marks.append(("prompt", recording.prompt))
        for mark in marks:
            other = seen.setdefault(mark, index)
            if sides[other] != sides[index]:
                raise LeakError(_leak(recordings, sides, other, index, "the same recording"))
    for pair in pairs:
        if sides[pair.first] != sides[pair.second]:
            reason = f"near-duplicates (correlation {pair.correlation:.2f})"
            raise LeakError(_leak(recordings, sides, pair.first, pair.second, reason))


def _leak(recordings: Sequence[Recording], sides: Sequence[str], first: int, second: int, reason: str) -> str:
    return (
        f"{recordings[first].key} ({sides[first]}) and {recordings[second].key} ({sides[second]}) are {reason} on two "
        f"sides of the split; put both into one cluster before assign()"
    )
