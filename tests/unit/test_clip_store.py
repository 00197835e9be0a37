"""The recordings of a run: each once, as it was read, while there is room."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from data import clip_store
from data.clip_store import ClipStore
from data.types import ClipSource

CONTENTS = {"one": b"1" * 100, "two": b"2" * 100, "three": b"3" * 100}


def sha256(name: str) -> str:
    return hashlib.sha256(CONTENTS[name]).hexdigest()


@pytest.fixture
def clips(tmp_path: Path) -> dict[str, ClipSource]:
    """Three files by the hash of what they hold; the store asks for nothing but bytes."""
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return {sha256(name): ClipSource(str(tmp_path / name)) for name in CONTENTS}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def test_every_recording_is_kept_once_under_its_hash(tmp_path: Path, clips: dict[str, ClipSource]) -> None:
    store = ClipStore(str(tmp_path / "kept"), most_bytes=1000)
    store.add(clips)
    kept = tmp_path / "kept" / sha256("one")
    written = kept.stat().st_mtime_ns
    store.add(clips)
    ClipStore(str(tmp_path / "kept"), most_bytes=1000).add(clips)
    assert names(tmp_path / "kept") == set(clips)
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == (CONTENTS["one"], written)


def test_no_more_is_kept_than_there_is_room_for_counting_what_another_process_kept(
    tmp_path: Path, clips: dict[str, ClipSource]
) -> None:
    one = sha256("one")
    ClipStore(str(tmp_path / "kept"), most_bytes=250).add({one: clips[one]})
    ClipStore(str(tmp_path / "kept"), most_bytes=250).add(clips)
    assert len(names(tmp_path / "kept")) == 2
    none = ClipStore(str(tmp_path / "none"), most_bytes=0)
    assert none.add(clips) == ()
    assert names(tmp_path / "none") == set()


def test_what_there_is_no_room_for_is_told_once_and_nothing_is_read_any_more(
    tmp_path: Path, clips: dict[str, ClipSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ClipStore(str(tmp_path / "kept"), most_bytes=150)
    [note] = store.add(clips)
    assert "logging.clips_bytes" in note
    monkeypatch.setattr(clip_store, "read_encoded", None)
    assert store.add(clips) == ()


def test_a_recording_that_cannot_be_written_is_told_and_ends_nothing(
    tmp_path: Path, clips: dict[str, ClipSource]
) -> None:
    (tmp_path / "file").write_text("no directory")
    store = ClipStore(str(tmp_path / "file" / "kept"), most_bytes=1000)
    [note] = store.add(clips)
    assert note.startswith("recordings are not kept any more: ")
    assert store.add(clips) == ()


def test_what_a_process_that_was_killed_had_begun_takes_no_room(tmp_path: Path, clips: dict[str, ClipSource]) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / f".{sha256('one')}.77.part").write_bytes(b"1" * 900)
    ClipStore(str(tmp_path / "kept"), most_bytes=300).add(clips)
    assert names(tmp_path / "kept") == set(clips)


def test_what_is_not_what_was_heard_is_passed_over(tmp_path: Path, clips: dict[str, ClipSource]) -> None:
    Path(clips[sha256("one")].path).unlink()
    Path(clips[sha256("two")].path).write_bytes(b"another")
    store = ClipStore(str(tmp_path / "kept"), most_bytes=1000)
    store.add(clips | {"silence-" + sha256("three"): clips[sha256("three")]})
    assert names(tmp_path / "kept") == {sha256("three")}
