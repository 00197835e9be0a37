"""Tower output in Parquet files that several processes share."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from learner import feature_store
from learner.feature_store import FeatureStore, Floats

WIDTH = 64
MEMORY_BYTES = 10_000_000


def clips(count: int, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {
        f"clip-{seed}-{number}": rng.standard_normal((int(rng.integers(1, 200)), WIDTH), dtype=np.float32)
        for number in range(count)
    }


def opened(directory: Path, memory_bytes: int = MEMORY_BYTES) -> FeatureStore:
    return FeatureStore(directory, WIDTH, memory_bytes)


def written(directory: Path, arrays: dict[str, Floats]) -> Path:
    """The one file that holds them."""
    before = set(directory.glob("*.parquet"))
    store = opened(directory)
    for name, array in arrays.items():
        store.add(name, array)
    store.save()
    [path] = set(directory.glob("*.parquet")) - before
    return path


def test_what_was_saved_is_read_back_to_the_bit_in_any_order(tmp_path: Path) -> None:
    arrays = clips(150)
    path = written(tmp_path, arrays)
    assert 1 < pq.read_metadata(path).num_row_groups < len(arrays)
    store = opened(tmp_path)
    for name in np.random.default_rng(1).permutation(list(arrays)).tolist():
        found = store.get(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, arrays[name])
    assert store.get("another clip") is None


def test_what_is_not_yet_saved_is_there_for_its_own_process(tmp_path: Path) -> None:
    store, [(name, array)] = opened(tmp_path), clips(1).items()
    store.add(name, array)
    np.testing.assert_array_equal(store.get(name), array)
    assert opened(tmp_path).get(name) is None


def test_clips_are_written_by_themselves_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "PAUSE_SECONDS", 0.2)
    store, arrays = opened(tmp_path), clips(5)
    for name, array in arrays.items():
        store.add(name, array)
    assert not list(tmp_path.glob("*.parquet"))
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    other = opened(tmp_path)
    assert all(np.array_equal(other.get(name), array) for name, array in arrays.items())


def test_a_clip_that_another_process_saved_meanwhile_is_found(tmp_path: Path) -> None:
    early, arrays = opened(tmp_path), clips(3)
    assert early.get("clip-0-0") is None
    written(tmp_path, arrays)
    np.testing.assert_array_equal(early.get("clip-0-0"), arrays["clip-0-0"])


def write_and_read(directory: str, seed: int, barrier: object) -> None:
    """A process that writes clips of its own and some of everybody's, many files of them, while others do."""
    feature_store.FILE_BYTES = 100_000
    store = opened(Path(directory))
    barrier.wait(60)  # type: ignore[attr-defined]
    for name, array in (clips(60, seed) | clips(20, seed=99)).items():
        found = store.get(name)
        assert found is None or np.array_equal(found, array)
        store.add(name, array)
    store.save()


@pytest.mark.heavy
def test_processes_that_write_at_once_lose_nothing_and_disturb_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=write_and_read, args=(str(tmp_path), seed, barrier)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.parquet"))) > 3 * 5
    assert not list(tmp_path.glob(".*"))
    store = opened(tmp_path)
    for seed in (0, 1, 2, 99):
        for name, array in clips(60 if seed < 3 else 20, seed).items():
            np.testing.assert_array_equal(store.get(name), array)


@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_told_of_and_its_clips_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    good, lost = clips(40), clips(40, seed=1)
    written(tmp_path, good)
    path = written(tmp_path, lost)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    store = opened(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert all(store.get(name) is None for name in lost)
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert all(np.array_equal(store.get(name), array) for name, array in good.items())


@pytest.mark.heavy
def test_no_changed_byte_is_taken_for_a_clip(tmp_path: Path) -> None:
    arrays = clips(30)
    path = written(tmp_path, arrays)
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    missing = 0
    for place in rng.integers(0, len(content), 60).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.unlink()
        (tmp_path / f"{place}.parquet").write_bytes(damaged)
        store = opened(tmp_path)
        for name, array in arrays.items():
            found = store.get(name)
            missing += found is None
            assert found is None or np.array_equal(found, array), place
        path = tmp_path / f"{place}.parquet"
    assert missing


def test_a_parquet_file_of_something_else_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, clips(3))
    table = pq.read_table(path).rename_columns(["id", "audio_tokens", "pooled"])
    pq.write_table(table, path)
    assert opened(tmp_path).get("clip-0-0") is None
    assert "id" in caplog.text


def test_a_file_that_vanishes_is_told_of_and_its_clips_are_missing(tmp_path: Path) -> None:
    path = written(tmp_path, clips(3))
    store = opened(tmp_path)
    assert store.get("another") is None
    store._open.clear()
    path.unlink()
    assert store.get("clip-0-0") is None


@pytest.mark.heavy
def test_what_is_held_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    arrays = clips(400)
    assert sum(array.nbytes for array in arrays.values()) > 5_000_000
    bound = 2_500_000
    store = opened(tmp_path, bound)
    for name, array in arrays.items():
        store.add(name, array)
        assert held(store) <= bound
    store.save()
    assert len(list(tmp_path.glob("*.parquet"))) > 1
    for name, array in arrays.items():
        np.testing.assert_array_equal(store.get(name), array)
        assert held(store) <= bound
        assert name in store._recent


def held(store: FeatureStore) -> int:
    return sum(array.nbytes for array in (*store._unsaved.values(), *store._recent.values()))


def test_a_directory_that_cannot_be_written_costs_the_clips_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, [(name, array)] = opened(tmp_path / "features"), clips(1).items()
    (tmp_path / "features").rmdir()
    store.add(name, array)
    store.save()
    assert "cannot be written" in caplog.text
    assert store.get(name) is None


def test_temporary_files_of_killed_processes_are_removed_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.1.part", tmp_path / ".young.2.part"
    for partial in (old, young):
        partial.write_bytes(b"half")
    an_hour_ago = time.time() - feature_store.ABANDONED_SECONDS - 10
    os.utime(old, (an_hour_ago, an_hour_ago))
    opened(tmp_path)
    assert not old.exists()
    assert young.exists()
