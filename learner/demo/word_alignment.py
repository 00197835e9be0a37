"""Where a projector starts that lies between two pretrained models: what makes a clip look like the word that names it.

The language model already knows its words, so that it need only be shown them. A linear layer is fitted such that the
mean of a clip's projected positions lies nearest to the embedding of its own name, among all names of its kind: the
cross-entropy of a softmax over the names' embeddings, with decay. No language model runs, and a few thousand clips
take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

STEPS = 300
LEARNING_RATE = 1e-3
SHARPNESS = 10.0
"""Scale of the logits."""
DECAY = 1e-2
"""Of the layer's squared norm. Between 0 and 0.2 the nearest name of validation questions is as often the right one."""


@dataclass(frozen=True, slots=True)
class Named:
    """A clip and what it is called."""

    heard: Tensor
    """Mean of the tower's output over the clip, (D,)."""
    name: str
    kind: str
    """Names of one kind are told apart."""


def align(clips: Sequence[Named], embeddings: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (H, D) and bias (H,) of the projector.

    Args:
        clips: named clips.
        embeddings: (H,) of each name.
    """
    heard = torch.stack([clip.heard for clip in clips])  # (N, D)
    centre = heard.mean(0)
    middle = torch.stack(list(embeddings.values())).mean(0)  # (H,)
    kinds = [_Kind(heard, clips, kind, embeddings) for kind in sorted({clip.kind for clip in clips})]
    weight = torch.zeros(len(middle), len(centre), requires_grad=True)
    bias = torch.zeros(len(middle), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    for _ in range(STEPS):
        loss = DECAY * weight.square().sum()
        for kind in kinds:
            projected = (kind.heard - centre) @ weight.T + bias  # (n, H), of the middle of all names
            logits = SHARPNESS * projected @ (kind.names - middle).T
            loss = loss + cross_entropy(logits, kind.targets, reduction="sum") / len(clips)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight, bias = weight.detach(), bias.detach()
    return weight, middle + bias - weight @ centre


class _Kind:
    """The clips of one kind: `heard` (n, D), `names` (K, H) and which of these each clip has, `targets` (n,)."""

    def __init__(self, heard: Tensor, clips: Sequence[Named], kind: str, embeddings: dict[str, Tensor]) -> None:
        own = [index for index, clip in enumerate(clips) if clip.kind == kind]
        names = sorted({clips[index].name for index in own})
        self.heard = heard[own]
        self.names = torch.stack([embeddings[name] for name in names])
        self.targets = torch.tensor([names.index(clips[index].name) for index in own])
