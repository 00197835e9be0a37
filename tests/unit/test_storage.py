"""What a node says of the storage that it is asked about."""

from __future__ import annotations

from pathlib import Path

from cluster.storage import _reach


def test_a_node_that_cannot_write_says_why_and_is_not_taken_for_one_of_another_storage(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    problems, written = _reach._function(f"{file}/.reached", "node", [str(tmp_path / "gone.wav"), str(file)])
    assert problems == [
        f"{tmp_path}/gone.wav cannot be read (No such file or directory)",
        f"run.dir={file} cannot be written (Not a directory)",
    ]
    assert not written


def test_a_node_writes_what_whoever_asks_looks_for(tmp_path: Path) -> None:
    assert _reach._function(str(tmp_path), "node", []) == ([], True)
    assert [path.name for path in tmp_path.iterdir()] == ["node"]
