"""The built set: a real one where there is one, else a tiny one made here."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from scipy.stats import chisquare

from cluster.demo import DATA_MAKER
from cluster.fingerprint import fingerprint
from data.audio import SAMPLE_RATE
from data.cache import cache_directory
from data.demo.build import build_from
from data.demo.duplicates import find_pairs
from data.demo.packages import PACKAGES
from data.demo.recordings import MAX_SECONDS, Drops, RawFile, Recording, decode, encode, trim
from data.demo.report import credits, text_baseline
from data.demo.split import check_split
from data.writing import SCHEMA
from tests.unit.demo_recordings import noise_burst, zoo

pytestmark = pytest.mark.heavy  # sets of questions are built, or read whole

SPLITS = ("train", "validation", "test")
SMALL = {"train": {"sound": 120}, "validation": {"sound": 24}, "test": {"sound": 48}}


def small(out: Path, seed: int = 0) -> Path:
    build_from(zoo(), Drops(), out, seed, SMALL)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a built set."""
    given = os.environ.get("AURICLE_DEMO_DATA")
    made = Path(given) if given else cache_directory() / "demo" / f"data-{fingerprint(DATA_MAKER)}"
    if given or made.is_dir():
        return made
    return small(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def rows(built: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: pq.read_table(built / f"{split}.parquet").to_pylist() for split in SPLITS}


def test_the_columns_are_those_of_the_design(built: Path) -> None:
    for split in SPLITS:
        assert pq.read_schema(built / f"{split}.parquet").equals(SCHEMA)


def test_every_clip_is_16_khz_mono_of_at_most_4_seconds_and_has_its_hash(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["test"]:
        assert hashlib.sha256(row["audio"]["bytes"]).hexdigest() == row["sha256"]
        info = soundfile.info(io.BytesIO(row["audio"]["bytes"]))
        assert (info.samplerate, info.channels, info.format) == (SAMPLE_RATE, 1, "FLAC")
        assert info.frames <= MAX_SECONDS * SAMPLE_RATE


def test_every_question_has_four_different_choices_with_the_answer_among_them(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    for row in (row for found in rows.values() for row in found):
        assert len(row["choices"]) == len(set(row["choices"])) == 4
        assert row["answer"] in row["choices"]


def test_the_gold_position_is_uniform_in_every_split(rows: dict[str, list[dict[str, Any]]]) -> None:
    for found in rows.values():
        places = [row["choices"].index(row["answer"]) for row in found]
        assert chisquare([places.count(place) for place in range(4)]).pvalue > 0.5


def test_no_sound_and_no_near_duplicate_of_one_is_on_two_sides(rows: dict[str, list[dict[str, Any]]]) -> None:
    clips: dict[tuple[str, str], Recording] = {}
    for split, found in rows.items():
        for row in found:
            if row["task"] != "sound" or (split, row["sha256"]) in clips:
                continue
            waveform, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            clips[split, row["sha256"]] = Recording("", row["audio"]["path"], "sound", {}, "", waveform, whole=True)
    check_split(list(clips.values()), [split for split, _ in clips], find_pairs(list(clips.values())))


def test_no_clip_of_any_task_is_on_two_sides(rows: dict[str, list[dict[str, Any]]]) -> None:
    hashes = [{row["sha256"] for row in rows[split]} for split in SPLITS]
    paths = [{row["audio"]["path"] for row in rows[split]} for split in SPLITS]
    for sets in (hashes, paths):
        assert len(set.union(*sets)) == sum(map(len, sets))


def test_the_text_alone_answers_no_better_than_chance(rows: dict[str, list[dict[str, Any]]]) -> None:
    chance = 0.25
    deviation = (chance * (1 - chance) / len(rows["test"])) ** 0.5
    assert abs(text_baseline(rows["train"], rows["test"])["accuracy"] - chance) < 3 * deviation


def test_the_text_baseline_finds_an_answer_that_is_always_right() -> None:
    row = {"task": "sound", "sub_category": "animal", "choices": ["a", "b", "c", "d"], "answer": "a"}
    rows = [row] * 8
    assert text_baseline(rows, rows)["accuracy"] == 1
    assert text_baseline(rows, rows)["accuracy_of_one_position"] == 1


def test_one_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    first, again, other = small(tmp_path / "a"), small(tmp_path / "b"), small(tmp_path / "c", seed=1)
    for name in ("train.parquet", "validation.parquet", "test.parquet", "report.json", "report.md"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert (first / "test.parquet").read_bytes() != (other / "test.parquet").read_bytes()


def test_credits_name_every_package_with_its_licence() -> None:
    text = credits(PACKAGES, {"scratch": 7})
    assert all(f"| {package.name} | {package.version} |" in text and package.licence in text for package in PACKAGES)


def stereo_file(seconds: float, rate: int = 44_100, lead_seconds: float = 0.0) -> bytes:
    waveform = noise_burst(3, seconds * rate / SAMPLE_RATE)
    silent = np.zeros(int(lead_seconds * rate), dtype=np.float32)
    mono = np.concatenate([silent, waveform, silent])
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([mono, mono], axis=1), rate, format="WAV")
    return buffer.getvalue()


def raw(content: bytes) -> RawFile:
    return RawFile("pack", "a.wav", content, "sound", {"animal": "dog"})


def test_a_file_is_made_16_khz_mono_and_its_silent_ends_are_cut() -> None:
    found = decode(raw(stereo_file(1.0, lead_seconds=0.5)))
    assert found.waveform.ndim == 1
    assert 0.9 < len(found.waveform) / SAMPLE_RATE < 1.05
    assert found.whole


def test_a_long_file_is_cut_to_4_seconds_and_known_as_cut() -> None:
    found = decode(raw(stereo_file(5.0)))
    assert (len(found.waveform) / SAMPLE_RATE, found.whole) == (MAX_SECONDS, False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(stereo_file(0.05), "short"), (b"no sound", "undecodable"), (stereo_file(0.0, lead_seconds=1.0), "silent")],
    ids=["short", "undecodable", "silent"],
)
def test_a_file_without_a_usable_sound_is_dropped_for_a_reason(content: bytes, reason: str) -> None:
    assert decode(raw(content)) == reason


def test_clips_have_one_peak_whatever_their_level() -> None:
    quiet, _ = trim(noise_burst(1) * np.float32(0.01))
    loud, _ = trim(noise_burst(1))
    assert np.allclose(quiet, loud, atol=1e-5)


def test_a_clip_has_the_same_bytes_every_time() -> None:
    assert encode(noise_burst(1)) == encode(noise_burst(1))
