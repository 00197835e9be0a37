"""The recordings of a run, as a browser plays them, and what they look like.

Only what was decoded here is handed out: samples and pictures, never bytes of a data set.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from configs.plugins import is_plug_in
from configs.schema import Data
from data.audio import MAX_SAMPLES, SAMPLE_RATE, decode, read_encoded
from data.clip_store import NAME
from data.errors import ClipError, DataError
from data.formats import load_examples
from data.types import SILENCE, ClipSource

MELS, WINDOW, HOP = 128, 400, 160
"""Of the spectrogram that is drawn: what the audio tower hears."""
DYNAMIC_RANGE_DECIBELS = 80.0
PEAKS = 600
"""Pairs of samples that a waveform is drawn from."""
HELD = 64
"""Decoded recordings that are held in memory."""


class NoClip(KeyError):
    """A recording that is not to be had; tells why."""


class Clips:
    """Finds recordings by the hash of their bytes in the run's `clips/`, else by a question's id in its data.

    Args:
        run: the run's directory.
        data: `data` of its configuration.
    """

    def __init__(self, run: Path, data: Mapping[str, Any]) -> None:
        self._folder = run / "clips"
        self._data = Data.model_construct(**data)  # what an older run does not name has its default
        self.waveform = lru_cache(HELD)(self._waveform)

    def _waveform(self, sha256: str, example_id: str) -> NDArray[np.float32]:
        """float32 (samples,) at 16 kHz, as the model heard it but for silence.

        Args:
            sha256: of the encoded bytes; of silence, those that it stands in for.
            example_id: of a question about it, or empty.

        Raises:
            NoClip: it was never read, is nowhere, or has been changed since.
        """
        sha256 = sha256.removeprefix(SILENCE)
        if not NAME.fullmatch(sha256):
            raise NoClip("the recording was never read")
        stored = ClipSource(str(self._folder / sha256))
        try:
            for source in (stored, *self._sources.get(example_id, ())):
                if not Path(source.path).is_file():
                    continue
                encoded = read_encoded(source)
                if hashlib.sha256(encoded).hexdigest() == sha256:
                    return self._decoded(source, encoded)
        except (ClipError, DataError) as error:
            raise NoClip(str(error)) from error
        raise NoClip("the recording is not kept in the run, and is not as it was in a data set of this machine")

    def _decoded(self, source: ClipSource, encoded: bytes) -> NDArray[np.float32]:
        data = self._data
        return decode(io.BytesIO(encoded), source, data.max_seconds, data.min_seconds, data.channels)

    @cached_property
    def _sources(self) -> dict[str, list[ClipSource]]:
        """Where the recordings of questions lie, by their ids, which splits may share.

        Nothing, where it takes a plug-in to read them: a look at a run imports nothing that the run names.
        """
        found: dict[str, list[ClipSource]] = {}
        if is_plug_in(self._data.format):
            return found
        for path in (self._data.train, self._data.validation, self._data.test):
            if path is not None and Path(path).exists():
                for example in load_examples(path, self._data.audio_dir, self._data.format, unanswered=True).examples:
                    found.setdefault(example.id, []).append(example.clip)
        return found


def as_wav(waveform: NDArray[np.float32]) -> bytes:
    """A 16-bit WAV file, which every browser plays."""
    return _written(waveform, "WAV")


def as_flac(waveform: NDArray[np.float32]) -> bytes:
    """The same in about half the bytes."""
    return _written(waveform, "FLAC")


def _written(waveform: NDArray[np.float32], format: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16", format=format)
    return buffer.getvalue()


def peaks(waveform: NDArray[np.float32], count: int = PEAKS) -> list[tuple[float, float]]:
    """The lowest and the highest sample of each of `count` parts, or of as many as there are samples."""
    parts = np.array_split(waveform, min(count, len(waveform)))
    return [(round(float(part.min()), 4), round(float(part.max()), 4)) for part in parts]


def spectrogram_png(waveform: NDArray[np.float32]) -> bytes:
    """The mel spectrogram as a picture: 128 bands high, the lowest at the bottom, a column each 10 ms."""
    import librosa
    import matplotlib.image

    energies = librosa.feature.melspectrogram(
        y=waveform[:MAX_SAMPLES], sr=SAMPLE_RATE, n_fft=WINDOW, hop_length=HOP, n_mels=MELS, fmax=SAMPLE_RATE / 2
    )
    decibels = librosa.power_to_db(energies, ref=np.max, top_db=DYNAMIC_RANGE_DECIBELS)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, decibels[::-1], cmap="magma", vmin=-DYNAMIC_RANGE_DECIBELS, vmax=0.0, format="png")
    return buffer.getvalue()


def prepare() -> None:
    """Have the libraries ready that the first spectrogram would wait for, seconds on a busy machine."""
    spectrogram_png(np.zeros(SAMPLE_RATE, np.float32))
