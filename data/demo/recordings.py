"""From package files to labelled recordings: 16 kHz mono, trimmed, at most 4 seconds.

Which recordings there are depends on the packages alone, never on the seed.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from data.demo import labels
from data.demo.archives import read_cat, read_deb, read_rcc, read_sf3
from data.demo.packages import PACKAGES
from data.ordered import cpus, ordered

Waveform = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
MAX_SECONDS = 4.0
MIN_SECONDS = 0.1
SILENCE_DB = -50.0
"""Below the peak: what is quieter at the beginning and end of a file is cut off."""
FADE_SECONDS = 0.01
PEAK = 0.7
"""Clips are scaled to one peak, so that loudness tells nothing about the package."""
QUIETEST_PEAK = 0.003
RECORDINGS_PER_LANGUAGE = 200
SOUND_SUFFIXES = (".wav", ".ogg", ".flac", ".mp3", ".aiff", ".aif", ".gsm")
MUSIC_KINDS = frozenset({labels.INSTRUMENT, labels.DRUM, labels.FAMILY})


@dataclass(frozen=True, slots=True)
class RawFile:
    """A sound file as it lies in a package, with what is known of it."""

    source: str
    """Package."""
    path: str
    """Below the package, and below the container where it lies in one."""
    content: bytes
    task: str
    labels: Mapping[str, str]
    """Kind of question -> its answer."""
    prompt: str = ""
    """Voice and text of spoken recordings: takes of one text by one voice count as one recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A decoded recording."""

    source: str
    path: str
    task: str
    labels: Mapping[str, str]
    prompt: str
    waveform: Waveform
    """float32 (samples,), 16 kHz mono."""
    whole: bool
    """Nothing was cut off at the end but silence."""

    @property
    def key(self) -> str:
        return f"{self.source}:{self.path}"


@dataclass(frozen=True, slots=True)
class Drops:
    """Files that became no recording, counted by reason."""

    undecodable: int = 0
    short: int = 0
    silent: int = 0


def load(paths: Mapping[str, Path]) -> tuple[list[Recording], Drops, dict[str, bytes]]:
    """What all packages in `paths` (file of each package, by name) hold.

    Returns:
        Their recordings, sorted by key; how many files became none; the copyright file of each package that has one.
    """
    raw: list[RawFile] = []
    copyrights: dict[str, bytes] = {}
    names = [package.name for package in PACKAGES if package.name in paths]
    for name, (files, notice) in zip(names, ordered(lambda name: read(name, paths[name]), names, cpus()), strict=True):
        raw += files
        if notice is not None:
            copyrights[name] = notice
    recordings: list[Recording] = []
    counts: dict[str, int] = defaultdict(int)
    for decoded in ordered(decode, sorted(raw, key=lambda file: (file.source, file.path)), cpus()):
        if isinstance(decoded, str):
            counts[decoded] += 1
        elif usable := _without_cut_words(decoded):
            recordings.append(usable)
    return recordings, Drops(**counts), copyrights


def decode(raw: RawFile) -> Recording | str:
    """The recording of a file, or the reason why there is none (a field of `Drops`)."""
    try:
        if raw.path.endswith(".gsm"):
            samples, rate = soundfile.read(
                io.BytesIO(raw.content), format="RAW", subtype="GSM610", samplerate=8000, channels=1, dtype="float32"
            )
        else:
            samples, rate = soundfile.read(io.BytesIO(raw.content), dtype="float32")
    except soundfile.LibsndfileError:
        return "undecodable"
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if len(samples) == 0 or float(np.abs(samples).max()) < QUIETEST_PEAK:
        return "silent"
    mono = soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)
    waveform, whole = trim(mono)
    if len(waveform) < MIN_SECONDS * SAMPLE_RATE:
        return "short"
    return Recording(raw.source, raw.path, raw.task, raw.labels, raw.prompt, waveform, whole)


def trim(mono: Waveform) -> tuple[Waveform, bool]:
    """Cut silence off both ends and the rest to 4 seconds, fade the cut, scale to one peak; True if none was cut."""
    level = np.abs(mono)
    loud = np.flatnonzero(level > level.max() * 10 ** (SILENCE_DB / 20))
    clip = mono[loud[0] : loud[-1] + 1].copy()
    limit = int(MAX_SECONDS * SAMPLE_RATE)
    whole = len(clip) <= limit
    clip = clip[:limit]
    fade = min(len(clip), int(FADE_SECONDS * SAMPLE_RATE))
    if not whole:
        clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return (clip * (PEAK / np.abs(clip).max())).astype(np.float32), whole


def encode(waveform: Waveform) -> bytes:
    """16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _without_cut_words(recording: Recording) -> Recording | None:
    """Drop the labels that name a word where the end of the clip was cut: the word may be in the part cut off."""
    if recording.task != "speech" or recording.whole:
        return recording
    kept = {kind: answer for kind, answer in recording.labels.items() if kind == labels.LANGUAGE}
    if not kept:
        return None
    return replace(recording, labels=kept)


RULES: Mapping[str, Sequence[labels.Rule]] = {
    "scratch": labels.SCRATCH,
    "gcompris-qt-data": labels.GCOMPRIS,
    "openttd-opensfx": labels.OPENSFX,
    "wesnoth-1.16-data": labels.WESNOTH,
    "sonic-pi-samples": labels.SONIC_PI,
    "lmms-common": labels.LMMS,
    "fluidr3mono-gm-soundfont": labels.FLUID,
    "tuxpaint-stamps-default": labels.TUXPAINT,
}
CONTAINERS = {".rcc": read_rcc, ".sf3": read_sf3, ".cat": read_cat}
READ_SUFFIXES = frozenset({*SOUND_SUFFIXES, *CONTAINERS, ".txt"})


def read(name: str, path: Path) -> tuple[list[RawFile], bytes | None]:
    """Labelled files of a package, which is decompressed once, and its copyright file as Debian has it."""
    notice = f"usr/share/doc/{name}/copyright"
    files = dict(read_deb(path, lambda inner: inner == notice or Path(inner).suffix.lower() in READ_SUFFIXES))
    kept = files.pop(notice, None)
    if name.startswith("asterisk-"):
        return list(_asterisk(name, files)), kept
    if name.startswith("tuxpaint-"):
        return list(_tuxpaint(name, files)), kept
    return list(_ruled(name, files)), kept


def _ruled(source: str, files: Mapping[str, bytes]) -> Iterator[RawFile]:
    for name, content in files.items():
        suffix = Path(name).suffix.lower()
        if suffix == ".txt":
            continue
        inside = CONTAINERS[suffix](content) if suffix in CONTAINERS else {name: content}
        for inner, block in inside.items():
            if suffix == ".rcc" and not inner.lower().endswith(SOUND_SUFFIXES):
                continue
            if found := labels.label(RULES[source], inner):
                yield RawFile(source, inner, block, _task(found), found)


def _task(found: Mapping[str, str]) -> str:
    return "music" if MUSIC_KINDS & found.keys() else "sound"


def _asterisk(source: str, files: Mapping[str, bytes]) -> Iterator[RawFile]:
    language = source.split("-")[3]
    found: list[RawFile] = []
    for name, content in files.items():
        if not name.endswith(".gsm"):
            continue
        inner = name.split("/sounds/", 1)[1].split("/", 1)[1]
        if re.search(r"^silence/|beep|tone|confbridge-(join|leave)\.|tt-monkeys\.", inner):
            continue
        answers = {labels.LANGUAGE: labels.LANGUAGES[language]}
        if digit := re.fullmatch(r"digits/(\d)\.gsm", inner):
            answers[labels.DIGIT] = labels.DIGITS[int(digit[1])]
        found.append(RawFile(source, inner, content, "speech", answers, f"{source}/{inner}"))
    yield from _at_most(found, RECORDINGS_PER_LANGUAGE)


def _tuxpaint(source: str, files: Mapping[str, bytes]) -> Iterator[RawFile]:
    texts: dict[str, dict[str, str]] = {}
    sounds: dict[str, bytes] = {}
    for name, content in files.items():
        inner = name.split("/stamps/", 1)[-1]
        if inner.endswith(".txt"):
            texts[inner.removesuffix(".txt")] = _names(content.decode("utf-8", "replace"))
        elif inner.endswith((".ogg", ".wav")):
            sounds[inner] = content
    spoken: dict[str, list[RawFile]] = defaultdict(list)
    for inner, content in sounds.items():
        if file := _spoken_name(source, inner, content, texts) or _spoken_digit(source, inner, content):
            spoken[file.prompt.split("/")[1]].append(file)
        elif "_desc" not in inner and (found := labels.label(labels.TUXPAINT, inner)):
            yield RawFile(source, inner, content, _task(found), found)
    for takes in spoken.values():
        yield from _at_most(takes, RECORDINGS_PER_LANGUAGE)


def _names(text: str) -> dict[str, str]:
    """Names of a stamp by language: the first line is English, the others are `xx.utf8=name`."""
    first, *others = text.splitlines() or [""]
    names = {"en": first.strip()}
    for line in others:
        language, found, name = line.partition(".utf8=")
        if found:
            names[language] = name.strip()
    return names


def _spoken_name(source: str, inner: str, content: bytes, texts: Mapping[str, Mapping[str, str]]) -> RawFile | None:
    match = re.fullmatch(r"(.+)_desc(?:_([a-z]{2}))?\.ogg", inner)
    if match is None:
        return None
    stamp, language = match[1], match[2] or "en"
    if language not in labels.LANGUAGES:
        return None
    answers = {labels.LANGUAGE: labels.LANGUAGES[language]}
    names = texts.get(stamp, {})
    text = re.sub(r"\W+", " ", names.get(language, "").lower()).strip()
    for kind, among in ((labels.WORD, labels.WORDS), (labels.COLOUR, labels.COLOURS)):
        if text and (word := labels.named(names["en"], among)):
            answers[kind] = word
    return RawFile(source, inner, content, "speech", answers, f"{source}/{language}/{text or stamp}")


def _spoken_digit(source: str, inner: str, content: bytes) -> RawFile | None:
    match = re.fullmatch(r"symbols/math/(\d)(?:_(\w+))?\.ogg", inner)
    if match is None or (language := match[2] or "en") not in labels.DIGIT_LANGUAGES:
        return None
    answers = {labels.DIGIT: labels.DIGITS[int(match[1])]}
    if (short := language.split("_")[0]) in labels.LANGUAGES:
        answers[labels.LANGUAGE] = labels.LANGUAGES[short]
    return RawFile(source, inner, content, "speech", answers, f"{source}/{language}/digit {match[1]}")


def _at_most(files: Sequence[RawFile], count: int) -> list[RawFile]:
    """Files with more than a language label first, then others up to `count`, in an order that is no one's choice."""
    ranked = sorted(files, key=lambda file: (len(file.labels) == 1, hashlib.sha256(file.path.encode()).digest()))
    return [file for rank, file in enumerate(ranked) if rank < count or len(file.labels) > 1]
