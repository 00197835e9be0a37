"""Recordings that are the same sound twice: found by correlation, kept on one side of a split.

Two steps. A coarse log-mel fingerprint of every clip, compared with all others at small shifts, proposes pairs; the
normalised cross-correlation of the two waveforms, at its best lag, decides. Takes of one text by one voice count as
one recording without being compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.cluster.hierarchy import DisjointSet
from transformers.audio_utils import mel_filter_bank

from data.demo.recordings import MAX_SECONDS, SAMPLE_RATE, Recording, Waveform
from data.ordered import cpus, ordered

Matrix = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]

WINDOW = 1024
HOP = 800
BANDS = 20
FRAMES = int(MAX_SECONDS * SAMPLE_RATE / HOP)
MEL: Matrix = mel_filter_bank(WINDOW // 2 + 1, BANDS, 60, 7500, SAMPLE_RATE, mel_scale="htk").astype(np.float32)
"""Triangles of equal width on the mel scale, 60 Hz to 7.5 kHz. Shape (WINDOW // 2 + 1, BANDS)."""
SHIFTS = range(9)
"""In frames of 50 ms, of either clip against the other."""
FINGERPRINT_THRESHOLD = 0.86
"""Proposes 19 in 20 of the pairs that correlate above 0.7 and have a cosine of 0.8; the rest is short low drums."""
CORRELATION_THRESHOLD = 0.65
"""Chosen by looking at pairs: see docs/demo.md."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two recordings (places in the list) and how alike their waveforms are."""

    first: int
    second: int
    correlation: float


def find_pairs(recordings: Sequence[Recording]) -> list[Pair]:
    """Pairs whose waveforms correlate at least at `CORRELATION_THRESHOLD` at some lag."""
    waveforms = [recording.waveform for recording in recordings]
    spectra: dict[tuple[int, int], Spectrum] = {}

    def spectrum(index: int, length: int) -> Spectrum:
        if (index, length) not in spectra:
            spectra[index, length] = _spectrum(waveforms[index], length)
        return spectra[index, length]

    def compared(places: tuple[int, int]) -> Pair:
        first, second = places
        length = _transform_length(waveforms[first], waveforms[second])
        return Pair(first, second, _best_correlation(spectrum(first, length), spectrum(second, length), length))

    pairs = ordered(compared, propose_pairs(waveforms), cpus())
    return [pair for pair in pairs if pair.correlation >= CORRELATION_THRESHOLD]


def correlation(first: Waveform, second: Waveform) -> float:
    """Largest absolute normalised cross-correlation over all lags, 0 to 1."""
    length = _transform_length(first, second)
    return _best_correlation(_spectrum(first, length), _spectrum(second, length), length)


def propose_pairs(waveforms: Sequence[Waveform]) -> list[tuple[int, int]]:
    """Pairs whose fingerprints have a cosine of at least `FINGERPRINT_THRESHOLD` at some shift."""
    prints = np.stack(list(ordered(fingerprint, waveforms, cpus())))  # (N, FRAMES, BANDS)
    flat = prints.reshape(len(prints), -1)
    best = np.full((len(prints), len(prints)), -1, dtype=np.float32)
    for shift in SHIFTS:
        moved = np.roll(prints, shift, axis=1)
        np.maximum(best, flat @ moved.reshape(len(prints), -1).T, out=best)
    first, second = np.nonzero(np.triu(np.maximum(best, best.T) >= FINGERPRINT_THRESHOLD, 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def fingerprint(waveform: Waveform) -> Matrix:
    """Log-mel frames without the mean over the clip's frames and bands, zero after its end, of norm 1.

    Shape (FRAMES, BANDS).
    """
    padded = np.pad(waveform, (0, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    mel = np.log10(power @ MEL + 1e-5)
    mel -= mel.mean()
    out: Matrix = np.zeros((FRAMES, BANDS), dtype=np.float32)
    out[: len(mel)] = mel
    out /= max(float(np.linalg.norm(out)), 1e-9)
    return out


def _transform_length(first: Waveform, second: Waveform) -> int:
    """A power of two that holds both clips end to end, so that the spectra of few lengths serve all pairs."""
    return 1 << (2 * max(len(first), len(second)) - 1).bit_length()


def _spectrum(waveform: Waveform, length: int) -> Spectrum:
    unit = waveform / max(float(np.linalg.norm(waveform)), 1e-9)
    spectrum: Spectrum = scipy.fft.rfft(unit, length)
    return spectrum


def _best_correlation(first: Spectrum, second: Spectrum, length: int) -> float:
    return float(np.abs(scipy.fft.irfft(first * np.conj(second), length)).max())


def clusters(recordings: Sequence[Recording], pairs: Iterable[Pair]) -> list[int]:
    """Lowest place in the list of each recording's cluster: linked by a pair, by the same prompt, or through others."""
    linked = DisjointSet(range(len(recordings)))
    for pair in pairs:
        linked.merge(pair.first, pair.second)
    by_prompt: dict[str, int] = {}
    for index, recording in enumerate(recordings):
        if recording.prompt:
            linked.merge(by_prompt.setdefault(recording.prompt, index), index)
    lowest: dict[int, int] = {}
    return [lowest.setdefault(linked[index], index) for index in range(len(recordings))]
