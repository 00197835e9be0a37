"""Reading clips and their features: what is decoded, what is refused, and exactness of the trimmed mel."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from configs.schema import Channels
from data import parquet
from data.audio import MAX_SAMPLES, SAMPLE_RATE, audio_tokens, check_clip, log_mel, mel_frames, read_clip
from data.errors import ClipError
from data.mp3 import lacks_count
from data.types import ClipSource


def tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: NDArray[np.float32], rate: int = SAMPLE_RATE, form: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def read(source: ClipSource, max_seconds: float = 30.0, min_seconds: float = 0.05) -> tuple[NDArray[np.float32], str]:
    return read_clip(source, max_seconds, min_seconds)


def write(folder: Path, content: bytes, name: str = "clip.wav") -> ClipSource:
    (folder / name).write_bytes(content)
    return ClipSource(str(folder / name))


def write_parquet(path: Path, clips: list[bytes | None], row_group_size: int = 2) -> str:
    audio = [None if clip is None else {"bytes": clip, "path": f"{i}.wav"} for i, clip in enumerate(clips)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"id": [str(i) for i in range(len(clips))], "audio": pa.array(audio, kind)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def test_a_16_khz_mono_clip_is_read_as_it_stands_with_the_hash_of_its_bytes(tmp_path: Path) -> None:
    encoded = wav(tone(1.0))
    waveform, sha256 = read(write(tmp_path, encoded))
    np.testing.assert_array_equal(waveform, tone(1.0))
    assert waveform.dtype == np.float32
    assert sha256 == hashlib.sha256(encoded).hexdigest()


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    waveform, _ = read(write(tmp_path, wav(tone(1.0, rate), rate)))
    assert len(waveform) == SAMPLE_RATE
    middle = slice(2_000, 14_000)
    np.testing.assert_allclose(waveform[middle], tone(1.0)[middle], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([tone(0.5), np.zeros_like(tone(0.5))], axis=1)
    waveform, _ = read(write(tmp_path, wav(stereo)))
    np.testing.assert_allclose(waveform, tone(0.5) / 2, atol=1e-7)


def test_the_first_channel_alone_is_taken_where_that_is_configured(tmp_path: Path) -> None:
    stereo = np.stack([tone(0.5), -tone(0.5)], axis=1)
    waveform, _ = read_clip(write(tmp_path, wav(stereo)), 30.0, 0.05, "first")
    np.testing.assert_array_equal(waveform, tone(0.5))


@pytest.mark.parametrize(
    ("left", "right", "channels", "silenced"),
    [
        (1.0, -1.0, "mean", "they cancel each other; data.channels: first hears one"),
        (1.0, -1.0, "first", ""),
        (0.0, 1.0, "first", "is silent in its first channel, and not in the others; data.channels: mean hears them"),
        (0.0, 1.0, "mean", ""),
        (0.0, 0.0, "mean", ""),
    ],
)
def test_a_check_tells_of_a_clip_that_its_channels_silence(
    tmp_path: Path, left: float, right: float, channels: Channels, silenced: str
) -> None:
    stereo = np.stack([left * tone(0.5), right * tone(0.5)], axis=1)
    found = check_clip(write(tmp_path, wav(stereo)), 30.0, 0.05, channels).silenced
    assert found.endswith(silenced)
    assert bool(found) == bool(silenced)


@pytest.mark.parametrize(("form", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_compressed_clips_are_decoded(tmp_path: Path, form: str, subtype: str) -> None:
    waveform, _ = read(write(tmp_path, wav(tone(1.0, 44_100), 44_100, form, subtype), f"clip.{form.lower()}"))
    assert abs(len(waveform) / SAMPLE_RATE - 1.0) < 0.1
    assert 0.3 < float(np.abs(waveform).max()) < 0.7


def test_the_extension_of_the_name_does_not_matter(tmp_path: Path) -> None:
    waveform, _ = read(write(tmp_path, wav(tone(0.5)), "clip.raw"))
    assert len(waveform) == 8_000


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_long_clip_is_cut_and_only_its_beginning_decoded(tmp_path: Path, rate: int) -> None:
    hertz = 440.125  # at its peak where it is cut: silence beyond the cut would ring
    samples = tone(5.0, rate, hertz)
    samples[round(2.5 * rate) :] = np.nan  # decoding further would refuse the clip
    waveform, _ = read(write(tmp_path, wav(samples, rate)), max_seconds=2.0)
    assert len(waveform) == 2 * SAMPLE_RATE
    np.testing.assert_allclose(waveform[2_000:], tone(2.0, hertz=hertz)[2_000:], atol=2e-3)


def test_a_clip_whose_header_promises_more_than_the_file_holds_is_read_to_its_end(tmp_path: Path) -> None:
    encoded = wav(tone(2.0), subtype="PCM_16")
    waveform, _ = read(write(tmp_path, encoded[: len(encoded) // 2]))
    assert 0.9 < len(waveform) / SAMPLE_RATE < 1.1


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (None, "missing", "there is no such file; check data.audio_dir"),
        (Path.mkdir, "unreadable", "is a directory, not a regular file"),
        (make_fifo, "unreadable", "is a FIFO, not a regular file"),
        (b"", "empty", "has 0 bytes"),
        (b"this is no recording" * 50, "unreadable", "cannot be decoded"),
        (wav(tone(1.0))[:20], "unreadable", "cannot be decoded"),
        (wav(np.zeros(0, np.float32)), "empty", "holds 0 samples"),
        (wav(tone(0.03)), "too_short", "lasts 0.030 s, data.min_seconds is 0.05"),
        (wav(np.append(tone(1.0), np.float32(np.nan))), "not_finite", "has 1 of 16001 samples NaN or infinite"),
        (wav(np.append(tone(1.0), np.float32(np.inf))), "not_finite", "has 1 of 16001 samples NaN or infinite"),
        (wav(np.append(tone(1.0, 8_000), np.float32(np.nan)), 8_000), "not_finite", "has 1 of 8001 samples"),
        (wav(tone(1.0), rate=10), "unreadable", "claims 10 samples a second"),
    ],
    ids=[
        "absent",
        "directory",
        "fifo",
        "no bytes",
        "text",
        "cut header",
        "no samples",
        "short",
        "nan",
        "inf",
        "nan at 8 kHz",
        "rate",
    ],
)
def test_a_clip_that_cannot_be_used_is_refused_with_reason_file_and_mend(
    tmp_path: Path, content: object, reason: str, message: str
) -> None:
    path = tmp_path / "clip.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    with pytest.raises(ClipError) as caught:
        read(ClipSource(str(path)))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_clip_too_short_for_one_audio_token_is_refused_whatever_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ClipError) as caught:
        read(write(tmp_path, wav(tone(0.02))), min_seconds=0.001)
    assert caught.value.reason == "too_short"


def test_clips_of_a_parquet_file_are_read_by_row_in_any_order(tmp_path: Path) -> None:
    clips = [wav(tone(0.1 * (i + 1))) for i in range(7)]
    path = write_parquet(tmp_path / "rows.parquet", list(clips))
    for row in (6, 0, 3, 2, 0, 5, 1, 4):
        waveform, sha256 = read(ClipSource(path, row))
        np.testing.assert_array_equal(waveform, tone(0.1 * (row + 1)))
        assert sha256 == hashlib.sha256(clips[row]).hexdigest()


def test_neighbouring_rows_decode_their_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [wav(tone(0.1))] * 8, row_group_size=4)
    decoded = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **kw: decoded.append(i) or original(self, i, **kw)
    )
    for row in range(8):
        read(ClipSource(path, row))
    assert decoded == [0, 1]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, [wav(tone(0.1))])
    assert len(read(ClipSource(str(path), 0))[0]) == 1_600
    if in_place:
        write_parquet(path, [wav(tone(0.2))])
    else:
        write_parquet(tmp_path / "new.parquet", [wav(tone(0.2))])
        (tmp_path / "new.parquet").replace(path)
    assert len(read(ClipSource(str(path), 0))[0]) == 3_200


def test_only_a_few_parquet_files_stay_open(tmp_path: Path) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    for i in range(3 * parquet.OPEN_FILES):
        read(ClipSource(write_parquet(tmp_path / f"{i}.parquet", [wav(tone(0.1))]), 0))
    assert open_descriptors() - before <= parquet.OPEN_FILES


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        (9, "missing", "row 9: the file has 4 rows, from 0"),
        (-1, "missing", "row -1: the file has 4 rows, from 0"),
        (1, "missing", "row 1: audio.bytes is null"),
        (2, "empty", "row 2: audio.bytes has 0 bytes"),
        (3, "unreadable", "row 3: cannot be decoded"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_number(
    tmp_path: Path, row: int, reason: str, message: str
) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [wav(tone(0.1)), None, b"", b"junk"])
    with pytest.raises(ClipError, match=message) as caught:
        read(ClipSource(path, row))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(path)


def test_a_file_that_is_no_parquet_of_clips_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"PAR1 no")
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"id": ["1"]}), plain)
    for path, reason, message in (
        (junk, "unreadable", "is not Parquet"),
        (plain, "unreadable", "has no column audio.bytes"),
        (tmp_path, "unreadable", "is not a regular file"),
        (tmp_path / "absent.parquet", "missing", "there is no such file"),
    ):
        with pytest.raises(ClipError, match=message) as caught:
            read(ClipSource(str(path), 0))
        assert caught.value.reason == reason


def write_shard(path: Path, audio: pa.Array) -> str:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema([("context", audio.type)])) as writer:
        writer.write_table(pa.table({"context": audio}), max_chunksize=2)
    return str(path)


@pytest.mark.parametrize("in_struct", [True, False])
def test_a_row_of_an_arrow_shard_is_read_from_its_column(tmp_path: Path, in_struct: bool) -> None:
    clips = [wav(tone(0.1 * (row + 1))) for row in range(5)]
    cells = [{"path": "x", "bytes": clip} for clip in clips] if in_struct else clips
    path = write_shard(tmp_path / "data.arrow", pa.array(cells))
    for row in (4, 0, 3):
        waveform, sha256 = read(ClipSource(path, row, "context"))
        assert (len(waveform), sha256) == (1_600 * (row + 1), hashlib.sha256(clips[row]).hexdigest())
    with pytest.raises(ClipError, match=r"has no column audio\.bytes") as caught:
        read(ClipSource(path, 0))
    assert caught.value.reason == "unreadable"


def test_a_row_of_an_arrow_shard_without_a_clip_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "data.arrow", pa.array([{"bytes": b""}, {"bytes": None}, None]))
    for row, reason in enumerate(["empty", "missing", "missing"]):
        with pytest.raises(ClipError, match=rf"row {row}: context\.bytes") as caught:
            read(ClipSource(path, row, "context"))
        assert caught.value.reason == reason


def check(source: ClipSource, max_seconds: float = 30.0) -> str:
    return check_clip(source, max_seconds, 0.05).sha256


@pytest.mark.parametrize(
    ("form", "subtype", "reason"),
    [
        ("WAV", "PCM_16", "truncated"),
        ("WAV", "FLOAT", "truncated"),
        ("AIFF", "PCM_16", "truncated"),
        ("AU", "PCM_16", "truncated"),
        ("FLAC", "PCM_16", "unreadable"),
        ("OGG", "VORBIS", "unreadable"),
        ("OGG", "OPUS", "truncated"),
        ("MP3", "MPEG_LAYER_III", "truncated"),
    ],
)
@pytest.mark.parametrize("stored", ["in a file", "in a row"])
def test_a_check_finds_a_clip_that_is_cut_short(
    tmp_path: Path, form: str, subtype: str, reason: str, stored: str
) -> None:
    encoded = wav(tone(3.0), form=form, subtype=subtype)
    for clip, expected in ((encoded, None), (encoded[: len(encoded) // 2], reason)):
        if stored == "in a file":
            source = write(tmp_path, clip)
        else:
            source = ClipSource(write_parquet(tmp_path / f"{expected}.parquet", [clip]), 0)
        if expected is None:
            assert check(source) == hashlib.sha256(clip).hexdigest()
            continue
        with pytest.raises(ClipError) as caught:
            check(source)
        assert caught.value.reason == expected


def mp3(*parts: NDArray[Any], counted: bool, tag: bytes = b"", rate: int = SAMPLE_RATE) -> bytes:
    """Parts in a variable bit rate, with or without the first frame, which counts the others."""
    file = io.BytesIO()
    kind = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
    soundfile.write(file, np.concatenate(parts), rate, **kind)
    encoded = file.getvalue()
    return tag + (encoded if counted else encoded[encoded.index(encoded[:2], 4) :])


HUSH = np.zeros(3 * SAMPLE_RATE, np.float32)
NOISE = 0.3 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
TAG = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xfb" * 128


@pytest.mark.parametrize("stored", ["in a file", "in a row"])
@pytest.mark.parametrize("tag", [b"", TAG])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("parts", [(HUSH, NOISE), (NOISE, HUSH)], ids=["hush first", "noise first"])
def test_a_whole_mp3_is_read_and_found_whole_whether_or_not_it_counts_its_frames(
    tmp_path: Path, parts: tuple[NDArray[np.float32], ...], counted: bool, tag: bytes, stored: str
) -> None:
    encoded = mp3(*parts, counted=counted, tag=tag)
    source = write(tmp_path, encoded)
    if stored == "in a row":
        source = ClipSource(write_parquet(tmp_path / "rows.parquet", [encoded]), 0)
    waveform, _ = read(source)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(6.0, abs=0.15)
    assert [half.std() > 0.1 for half in np.array_split(waveform, 2)] == [part is NOISE for part in parts]
    assert check(source) == hashlib.sha256(encoded).hexdigest()
    with pytest.raises(ClipError) as caught:
        check(source, max_seconds=5.0)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_of_any_kind_is_read_to_its_end(tmp_path: Path, rate: int, channels: int) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal((rate, channels))
    encoded = mp3(noise, np.zeros((rate, channels)), counted=False, rate=rate)
    assert len(read(write(tmp_path, encoded))[0]) / SAMPLE_RATE == pytest.approx(2.0, abs=0.25)


def test_what_is_no_mp3_is_left_as_it_is_though_a_tag_or_a_frame_stands_before_it(tmp_path: Path) -> None:
    flac = wav(tone(1.0), form="FLAC", subtype="PCM_16")
    by_chance = b"\xff\xfb\x90\x00".ljust(500, b"x")
    for clip in (flac, TAG + flac, by_chance, TAG + by_chance, b"\xff", b"ID3", TAG):
        assert not lacks_count(io.BytesIO(clip))
    assert lacks_count(io.BytesIO(TAG + bytes(9) + mp3(NOISE, counted=False)))


def test_a_check_decodes_a_clip_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    original = soundfile.SoundFile.__init__
    monkeypatch.setattr(
        soundfile.SoundFile, "__init__", lambda self, *a, **k: opened.append(self) or original(self, *a, **k)
    )
    check(write(tmp_path, wav(tone(1.0))))
    assert len(opened) == 2  # the test writes with one


def test_a_check_refuses_what_training_would_cut(tmp_path: Path) -> None:
    source = write(tmp_path, wav(tone(2.001)))
    assert len(read(source, max_seconds=2.0)[0]) == 2 * SAMPLE_RATE
    with pytest.raises(ClipError, match=r"lasts 2\.001 s, and training cuts it to data\.max_seconds, 2") as caught:
        check(source, max_seconds=2.0)
    assert caught.value.reason == "too_long"
    assert check(write(tmp_path, encoded := wav(tone(2.0))), 2.0) == hashlib.sha256(encoded).hexdigest()


def test_a_stream_whose_length_was_not_known_when_it_was_begun_is_whole(tmp_path: Path) -> None:
    encoded = bytearray(wav(tone(1.0), subtype="PCM_16"))
    size = encoded.index(b"data") + 4
    encoded[size : size + 4] = b"\xff" * 4
    assert check(write(tmp_path, bytes(encoded))) == hashlib.sha256(encoded).hexdigest()


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    with pytest.raises(ClipError, match="is a link to nothing") as caught:
        read(ClipSource(str(tmp_path / "link.wav")))
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("in_file", [True, False])
def test_a_header_that_sends_the_reader_out_of_the_file_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], in_file: bool
) -> None:
    broken = bytearray(wav(tone(0.1), form="AIFF", subtype="PCM_16"))
    offset = broken.index(b"SSND") + 8
    broken[offset : offset + 4] = b"\xff\xff\xff\x00"
    source = write(tmp_path, bytes(broken))
    if not in_file:
        source = ClipSource(write_parquet(tmp_path / "rows.parquet", [bytes(broken)]), 0)
    with pytest.raises(ClipError):
        read(source)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "tokens"), [(30.0, 750), (10.0, 250), (1.0, 25), (0.05, 1), (0.02, 0)])
def test_a_second_of_audio_takes_twenty_five_tokens(seconds: float, tokens: int) -> None:
    assert audio_tokens(mel_frames(round(seconds * SAMPLE_RATE))) == tokens


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("margin_frames", [0, 8])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 3.0, 29.9, 29.99, 30.0])
def test_the_trimmed_mel_equals_the_padded_one(seconds: float, margin_frames: int, bins: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=bins)
    noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE) - 7).astype(np.float32)
    trimmed = log_mel(noise, extractor, margin_frames)
    padded = extractor(noise, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"][0]
    assert trimmed.shape == (bins, min(mel_frames(len(noise)) + margin_frames, 3_000))
    np.testing.assert_allclose(trimmed, padded[:, : trimmed.shape[1]], atol=1e-6)


def test_a_clip_whose_loudest_sound_is_its_last_keeps_the_floor_of_the_padded_mel() -> None:
    extractor = WhisperFeatureExtractor()
    samples = np.zeros(SAMPLE_RATE, np.float32)
    samples[-3:] = 1.0
    padded = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(log_mel(samples, extractor, 0), padded[:, :100], atol=1e-6)


def test_more_than_thirty_seconds_have_no_mel() -> None:
    with pytest.raises(ValueError, match="480001 samples are more than 30 s"):
        log_mel(np.zeros(MAX_SAMPLES + 1, np.float32), WhisperFeatureExtractor())


@pytest.mark.heavy
def test_reading_clips_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; import data.audio, data.formats, data.prompts;"
        "print([name for name in ('torch', 'transformers', 'librosa', 'ray') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout.strip() == "[]"
