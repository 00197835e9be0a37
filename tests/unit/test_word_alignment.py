"""A projector that is fitted to words tells clips apart that it has not heard, and looks like their names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.demo.word_alignment import Named, align

pytestmark = pytest.mark.heavy  # each test fits a projector

WORDS = {"dog": "animal", "cat": "animal", "cow": "animal", "harp": "instrument", "flute": "instrument"}
WIDTH, HIDDEN = 24, 16


def recordings(count: int, seed: int) -> list[Named]:
    """Clips of each word about a point of its own, all of them off the origin."""
    points = torch.randn(len(WORDS), WIDTH, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    return [
        Named(5 + points[index] + 0.5 * torch.randn(WIDTH, generator=random), word, kind)
        for index, (word, kind) in enumerate(WORDS.items())
        for _ in range(count)
    ]


def embeddings() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    return {word: 1 + 0.3 * torch.randn(HIDDEN, generator=random) for word in WORDS}


def test_a_clip_that_was_not_fitted_lies_nearest_to_its_own_name() -> None:
    names = embeddings()
    weight, bias = align(recordings(20, seed=1), names)
    middle = torch.stack(list(names.values())).mean(0)
    right = 0
    held_out = recordings(10, seed=3)
    for clip in held_out:
        projected = weight @ clip.heard + bias - middle
        rivals = [word for word, kind in WORDS.items() if kind == clip.kind]
        right += max(rivals, key=lambda word: float(projected @ (names[word] - middle))) == clip.name
    assert right / len(held_out) > 0.9


def test_on_average_a_projected_clip_lies_among_the_words_not_at_the_origin() -> None:
    names = embeddings()
    clips = recordings(20, seed=1)
    weight, bias = align(clips, names)
    mean = torch.stack([weight @ clip.heard + bias for clip in clips]).mean(0)
    middle = torch.stack(list(names.values())).mean(0)
    assert (mean - middle).norm() < 0.2 * middle.norm()


def test_the_same_clips_give_the_same_projector() -> None:
    first, again = (align(recordings(5, seed=1), embeddings()) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
