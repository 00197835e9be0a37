"""Files that are written whole or not at all, and what is told where there is no room."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from data.whole_file import WriteError, whole_file, writing


def test_what_a_disk_has_no_room_for_is_not_begun_and_is_told_of_with_both_sizes(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    place, begun = tmp_path / "not yet" / "file", False
    with pytest.raises(WriteError) as raised, writing(place, size=free * 2):
        begun = True
    assert not begun
    told = str(raised.value)
    assert told.startswith(f"{place} cannot be written: it takes {free * 2 / 1e6:,.1f} MB, and ")
    assert told.endswith(" MB are free there")


def test_a_disk_that_is_full_in_the_middle_is_told_of_too() -> None:
    told = pytest.raises(WriteError, match=r"/dev/full cannot be written \(.*No space left.*\): it takes 0\.0 MB, and")
    with told, writing("/dev/full", size=0), open("/dev/full", "w") as file:
        file.write("much")


def test_of_a_url_nobody_knows_what_is_free() -> None:
    told = pytest.raises(WriteError, match=r"^s3://bucket/file cannot be written \(gone\): it takes 2\.0 MB$")
    with told, writing("s3://bucket/file", 2_000_000):
        raise OSError("gone")


def test_only_errors_of_the_system_and_those_that_are_named_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path / "file", 1):
        raise KeyError("a defect")
    with pytest.raises(WriteError, match="theirs"), writing(tmp_path / "file", 1, KeyError):
        raise KeyError("theirs")


def test_a_file_that_could_not_be_finished_leaves_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with suppress(KeyError), whole_file(tmp_path / "file") as partial:
        partial.write_text("half")
        raise KeyError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "before")]
