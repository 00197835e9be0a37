"""Tiny synthetic recordings for the tests of the demo set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data.demo.recordings import SAMPLE_RATE, Recording, Waveform

ANIMALS = ("bat", "cat", "cow", "dog", "frog", "horse")


def noise_burst(seed: int, seconds: float = 0.5) -> Waveform:
    """Noise under a random envelope: no two seeds correlate."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * SAMPLE_RATE)
    envelope = np.interp(np.arange(samples), np.linspace(0, samples, 12), rng.uniform(0, 1, 12))
    waveform = rng.normal(0, 1, samples) * envelope
    return (0.7 * waveform / np.abs(waveform).max(initial=1e-9)).astype(np.float32)


def recording(
    path: str, labels: Mapping[str, str], *, waveform: Waveform | None = None, prompt: str = "", task: str = "sound"
) -> Recording:
    if waveform is None:
        waveform = noise_burst(sum(map(ord, path)))
    return Recording("pack", path, task, labels, prompt, waveform, whole=True)


def zoo(each: int = 12) -> list[Recording]:
    """Recordings of six animals."""
    return [
        recording(f"{animal}{index}.wav", {"animal": animal}, waveform=noise_burst(100 * number + index, 0.2))
        for number, animal in enumerate(ANIMALS)
        for index in range(each)
    ]
