"""Read a clip as the models take it: 16 kHz mono, cut to length, and its log-mel features.

A clip that cannot be used raises `ClipError` with a reason to count it by; nothing is repaired in silence. Encoded
bytes come from a file, or from one row of a table (`data.parquet`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from data import mp3
from data.errors import ClipError
from data.parquet import read_clip_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import WhisperFeatureExtractor

    from configs.schema import Channels
    from data.types import ClipSource

SAMPLE_RATE = 16_000
HOP_SAMPLES = 160
MAX_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = MAX_SAMPLES // HOP_SAMPLES
"""Frames that the audio tower hears."""
MARGIN_FRAMES = 8
"""Frames after the valid ones that a mel keeps; the tower's convolutions look at two."""

RESAMPLING_TAIL_SECONDS = 0.1
"""Decoded beyond the cut, so that the last samples are resampled as in the middle of the recording."""

TOLERANCE_SECONDS = 0.1
"""By which a clip may be shorter than its header tells: encoders pad, and MP3 only estimates."""

SILENT, AUDIBLE = 1e-4, 1e-2
"""Peaks of a clip that nobody hears, and of a channel that somebody does."""

MAX_ENCODED_BYTES = 512 * 2**20
"""Of a clip that is held in memory as it is encoded: half an hour of the widest WAV."""

BLOCK_SAMPLES = 2**20
"""Decoded at a time, over all channels."""

STREAMED_BYTES = 0x7FFF0000
"""Sizes from here on are written by who did not know the length yet."""

_CUT_CHUNK = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_LAST_PAGE = "Last page lacks an end-of-stream bit"
"""In the log of libsndfile, which goes by what is there of a WAV, AIFF, AU or Ogg file."""

RATES = range(1_000, 768_001)
"""Sample rates that a recording can have; others come from a broken header."""


@dataclass(frozen=True, slots=True)
class CheckedClip:
    """A clip whose every second is there and is used."""

    sha256: str
    """Of the encoded bytes."""
    silenced: str = ""
    """How it became silent, where its channels are not; else empty."""


def read_clip(
    source: ClipSource, max_seconds: float, min_seconds: float, channels: Channels = "mean"
) -> tuple[NDArray[np.float32], str]:
    """The waveform, float32 (samples,) at 16 kHz mono and at most `max_seconds`, and the SHA-256 of the encoded bytes.

    Only the part that is used is decoded. Raises `ClipError`.
    """
    with _encoded(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return decode(file, source, max_seconds, min_seconds, channels), digest


def check_clip(source: ClipSource, max_seconds: float, min_seconds: float, channels: Channels = "mean") -> CheckedClip:
    """Read a clip as `read_clip` does, and refuse more.

    Raises `ClipError` where that does, and for what that passes over: a clip longer than `max_seconds`, and a file that
    ends before its header says.
    """
    with _encoded(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        with _sound(file, source) as sound:
            waveform = _decoded(sound, source, max_seconds, min_seconds, channels)
            seconds, ends = _claimed_frames(sound) / sound.samplerate, _NO_LAST_PAGE not in sound.extra_info
            silenced = _silenced(sound, waveform, max_seconds, channels)
    read = len(waveform) / SAMPLE_RATE
    if read + TOLERANCE_SECONDS < min(seconds, max_seconds) or not ends:
        tells = f"its header tells of {seconds:.3f} s" if ends else "its last page does not end the stream"
        raise ClipError("truncated", source, f"is cut short: {tells}, and {read:.3f} s are there; fetch it again")
    if seconds > max_seconds:
        detail = f"lasts {seconds:.3f} s, and training cuts it to data.max_seconds, {max_seconds:g}; cut it"
        raise ClipError("too_long", source, detail)
    return CheckedClip(digest, silenced)


def read_encoded(source: ClipSource) -> bytes:
    """The bytes of a clip as they are stored; raises `ClipError`."""
    with _encoded(source) as file:
        encoded = file.read(MAX_ENCODED_BYTES + 1)
    if len(encoded) > MAX_ENCODED_BYTES:
        raise ClipError("unreadable", source, f"has more than {MAX_ENCODED_BYTES} bytes; cut it to what counts")
    return encoded


def mel_frames(samples: int) -> int:
    """Mel frames that hold `samples` samples at 16 kHz."""
    return -(-samples // HOP_SAMPLES)


def tower_positions(frames: int) -> int:
    """Positions that `frames` mel frames take in the audio tower, whose second convolution has stride 2."""
    return (frames - 1) // 2 + 1


def audio_tokens(frames: int) -> int:
    """Positions that `frames` mel frames take in the language model: those of the tower, pooled by 2."""
    return (tower_positions(frames) - 2) // 2 + 1


def log_mel(
    waveform: NDArray[np.float32], extractor: WhisperFeatureExtractor, margin_frames: int = MARGIN_FRAMES
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


def _encoded(source: ClipSource) -> io.BufferedIOBase:
    """What holds the encoded bytes, open for reading and seeking."""
    return _open(source) if source.row is None else io.BytesIO(read_clip_bytes(source))


def _open(source: ClipSource) -> io.BufferedReader:
    """The clip's file, open for reading and known to be a regular one."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        what = "is a link to nothing" if os.path.islink(source.path) else "there is no such file"
        raise ClipError("missing", source, f"{what}; check data.audio_dir") from error
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


def decode(
    file: io.BufferedIOBase, source: ClipSource, max_seconds: float, min_seconds: float, channels: Channels = "mean"
) -> NDArray[np.float32]:
    """The waveform of an encoded clip as `read_clip` gives it; `source` is what errors speak of."""
    with _sound(file, source) as sound:
        return _decoded(sound, source, max_seconds, min_seconds, channels)


def _decoded(
    sound: soundfile.SoundFile, source: ClipSource, max_seconds: float, min_seconds: float, channels: Channels
) -> NDArray[np.float32]:
    rate = sound.samplerate
    if rate not in RATES:
        raise ClipError("unreadable", source, f"claims {rate} samples a second; encode it again")
    mono = _mono(sound, int((max_seconds + RESAMPLING_TAIL_SECONDS) * rate), channels)
    if len(mono) == 0:
        raise ClipError("empty", source, "holds 0 samples; fetch it again or drop its rows")
    _refuse_not_finite(mono, source)
    waveform = _resampled(mono, rate)[: int(max_seconds * SAMPLE_RATE)]
    _refuse_not_finite(waveform, source)
    if len(waveform) < min_seconds * SAMPLE_RATE or audio_tokens(mel_frames(len(waveform))) < 1:
        seconds = len(waveform) / SAMPLE_RATE
        raise ClipError("too_short", source, f"lasts {seconds:.3f} s, data.min_seconds is {min_seconds}; drop its rows")
    return np.ascontiguousarray(waveform)


@contextmanager
def _sound(file: io.BufferedIOBase, source: ClipSource) -> Iterator[soundfile.SoundFile]:
    """A clip to be decoded from its start; raises `ClipError` where it cannot be."""
    try:
        with _opened(file) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        detail = str(error).rpartition(": ")[2].rstrip(".")
        raise ClipError(
            "unreadable", source, f"cannot be decoded ({detail}); encode it as WAV, FLAC, OGG or MP3"
        ) from error


def _opened(file: io.BufferedIOBase) -> soundfile.SoundFile:
    """A clip to be decoded from its start. A file is read by libsndfile itself, without the interpreter's lock."""
    if mp3.lacks_count(file):
        file.seek(0)
        return soundfile.SoundFile(_Bytes(mp3.counted(file.read(MAX_ENCODED_BYTES))))
    if isinstance(file, io.BytesIO):
        return soundfile.SoundFile(_Bytes(file.getvalue()))
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return soundfile.SoundFile(file.fileno(), closefd=False)


class _Bytes(io.BytesIO):
    """Bytes that stay where they are when a broken header sends the reader out of them: an error would be printed."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _mono(sound: soundfile.SoundFile, frames: int, channels: Channels) -> NDArray[np.float32]:
    """The first `frames` frames with the channels averaged, or the first channel of them."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told of later
        blocks = [block[:, 0].copy() if channels == "first" else block.mean(axis=1) for block in _blocks(sound, frames)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _blocks(sound: soundfile.SoundFile, frames: int) -> Iterator[NDArray[np.float32]]:
    """The next `frames` frames as float32 (frames, channels), a few at a time: a header may claim 1,024 channels."""
    at_once = max(BLOCK_SAMPLES // sound.channels, 1)
    while frames > 0:
        block = sound.read(min(frames, at_once), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        yield block
        frames -= len(block)


def _silenced(sound: soundfile.SoundFile, waveform: NDArray[np.float32], max_seconds: float, channels: Channels) -> str:
    """How a clip became silent that is not; empty where it is not or was not."""
    if sound.channels == 1 or np.abs(waveform).max() > SILENT:
        return ""
    sound.seek(0)
    peaks = (float(np.abs(block).max()) for block in _blocks(sound, int(max_seconds * sound.samplerate)))
    if max(peaks, default=0.0) <= AUDIBLE:
        return ""
    if channels == "first":
        return "is silent in its first channel, and not in the others; data.channels: mean hears them"
    return "is silent when its channels are averaged, since they cancel each other; data.channels: first hears one"


def _claimed_frames(sound: soundfile.SoundFile) -> int:
    """Frames that the header tells of, though fewer may be there."""
    cut = _CUT_CHUNK.search(sound.extra_info)
    claimed, there = (int(cut[1]), int(cut[2])) if cut else (1, 1)
    if claimed >= STREAMED_BYTES or there == 0:
        return int(sound.frames)
    return int(sound.frames * claimed / there)


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
