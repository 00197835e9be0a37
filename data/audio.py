"""Read a clip as the models take it: 16 kHz mono, cut to length, and its log-mel features.

A clip that cannot be used raises `ClipError` with a reason to count it by; nothing is repaired in silence. Encoded
bytes come from a file, or from one row of a Parquet file (`data.parquet`).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from data.errors import ClipError
from data.parquet import read_clip_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import WhisperFeatureExtractor

    from data.types import ClipSource

SAMPLE_RATE = 16_000
HOP_SAMPLES = 160
MAX_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = MAX_SAMPLES // HOP_SAMPLES
"""Frames that the audio tower hears."""

RESAMPLING_TAIL_SECONDS = 0.1
"""Decoded beyond the cut, so that the last samples are resampled as in the middle of the recording."""

RATES = range(1_000, 768_001)
"""Sample rates that a recording can have; others come from a broken header."""


def read_clip(source: ClipSource, max_seconds: float, min_seconds: float) -> tuple[NDArray[np.float32], str]:
    """The waveform, float32 (samples,) at 16 kHz mono and at most `max_seconds`, and the SHA-256 of the encoded bytes.

    Channels are averaged. Only the part that is used is decoded. Raises `ClipError`.
    """
    if source.row is not None:
        encoded = read_clip_bytes(source)
        return _decode(io.BytesIO(encoded), source, max_seconds, min_seconds), hashlib.sha256(encoded).hexdigest()
    with _open(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return _decode(file, source, max_seconds, min_seconds), digest


def mel_frames(samples: int) -> int:
    """Mel frames that hold `samples` samples at 16 kHz."""
    return -(-samples // HOP_SAMPLES)


def audio_tokens(frames: int) -> int:
    """Positions that `frames` mel frames take in the language model: a stride-2 convolution, then a pooling by 2."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def log_mel(
    waveform: NDArray[np.float32], extractor: WhisperFeatureExtractor, margin_frames: int = 8
) -> NDArray[np.float32]:
    """Log-mel features, float32 (bins, min(valid + margin_frames, 3000)) with valid = ceil(samples / 160).

    Equal to the same frames of the extractor's features for the clip padded to 30 seconds: the frames left out are
    silent, so they change neither a kept frame nor the maximum that the features are floored by. Raises `ValueError`
    for more than 30 seconds.
    """
    if len(waveform) > MAX_SAMPLES:
        raise ValueError(f"log_mel: {len(waveform)} samples are more than 30 s at 16 kHz; cut the clip first")
    frames = min(mel_frames(len(waveform)) + margin_frames, MAX_FRAMES)
    samples = min(frames * HOP_SAMPLES + extractor.n_fft, MAX_SAMPLES)
    features = extractor(
        waveform, sampling_rate=SAMPLE_RATE, padding="max_length", max_length=samples, return_tensors="np"
    )
    mel: NDArray[np.float32] = features["input_features"][0, :, :frames]
    return np.ascontiguousarray(mel, dtype=np.float32)


def _open(source: ClipSource) -> io.BufferedReader:
    """The clip's file, open for reading and known to be a regular one."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ClipError("missing", source, "there is no such file; check data.audio_dir") from error
    except (OSError, ValueError) as error:
        raise ClipError("unreadable", source, f"{error}; the file must be readable by this process") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise ClipError("empty", source, "has 0 bytes; fetch it again or drop its rows")
    raise ClipError("unreadable", source, f"is {_kind(status.st_mode)}, not a regular file; name an audio file")


def _kind(mode: int) -> str:
    return "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"


def _decode(file: io.BufferedIOBase, source: ClipSource, max_seconds: float, min_seconds: float) -> NDArray[np.float32]:
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            if rate not in RATES:
                raise ClipError("unreadable", source, f"claims {rate} samples a second; encode it again")
            mono = _mono(sound, int((max_seconds + RESAMPLING_TAIL_SECONDS) * rate))
    except soundfile.SoundFileError as error:
        detail = str(error).rpartition(": ")[2].rstrip(".")
        raise ClipError(
            "unreadable", source, f"cannot be decoded ({detail}); encode it as WAV, FLAC, OGG or MP3"
        ) from error
    if len(mono) == 0:
        raise ClipError("empty", source, "holds 0 samples; fetch it again or drop its rows")
    _refuse_not_finite(mono, source)
    waveform = _resampled(mono, rate)[: int(max_seconds * SAMPLE_RATE)]
    _refuse_not_finite(waveform, source)
    if len(waveform) < min_seconds * SAMPLE_RATE or audio_tokens(mel_frames(len(waveform))) < 1:
        seconds = len(waveform) / SAMPLE_RATE
        raise ClipError("too_short", source, f"lasts {seconds:.3f} s, data.min_seconds is {min_seconds}; drop its rows")
    return np.ascontiguousarray(waveform)


def _mono(sound: soundfile.SoundFile, frames: int) -> NDArray[np.float32]:
    """The first `frames` frames with the channels averaged, a second at a time: a header may claim 1,024 channels."""
    blocks = []
    while frames > 0:
        block = sound.read(min(frames, sound.samplerate), dtype="float32", always_2d=True)  # (frames, channels)
        if len(block) == 0:
            break
        blocks.append(block.mean(axis=1))
        frames -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _resampled(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == SAMPLE_RATE:
        return mono
    import librosa  # its first resampling imports for seconds

    waveform = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return np.asarray(waveform, dtype=np.float32)


def _refuse_not_finite(samples: NDArray[np.float32], source: ClipSource) -> None:
    wrong = int(np.count_nonzero(~np.isfinite(samples)))
    if wrong:
        raise ClipError("not_finite", source, f"has {wrong} of {len(samples)} samples NaN or infinite; encode it again")
