"""Directories by URL."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from data.remote import Remote, RemoteError, copied, discard, is_url, written


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/runs", True),
        ("gs://b", True),
        ("memory://x", True),
        ("/shared/runs", False),
        ("runs", False),
        ("C://x", False),
        ("Qwen/Qwen2-Audio-7B", False),
        ("demo:tiny", False),
    ],
)
def test_a_url_is_told_from_a_path(place: str, url: bool) -> None:
    assert is_url(place) is url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///shared/runs", r"^file:///shared/runs is a directory of this machine: give its path, without file://"),
        ("nothing://bucket/runs", r"^nothing://bucket/runs cannot be used \(ValueError: .*\): every node needs"),
        ("zip://a.zip::memory://nothing.zip", r"^zip://\S+ cannot be used \(FileNotFoundError: .*\): every node needs"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_with_the_mend(url: str, told: str) -> None:
    with pytest.raises(RemoteError, match=told):
        Remote(url)


def test_a_directory_that_holds_nothing_is_no_model() -> None:
    with pytest.raises(RemoteError, match=r"^memory://nothing/here holds no file: name the directory itself"):
        copied("memory://nothing/here")


def test_what_is_written_is_there_when_the_block_has_ended_well() -> None:
    url = f"memory://{uuid.uuid4().hex}/made"

    def write(fails: bool) -> None:
        with written(url) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("whole")
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert not Remote(url).exists()
    write(fails=False)
    assert list(Remote(url).files()) == ["deep/file"]
    assert Remote(url).read("deep/file") == b"whole"
    assert Remote(url).read("deep/other") is None
    discard(url)
    assert not Remote(url).exists()
    discard(url)


def test_a_file_that_would_lie_outside_of_its_directory_is_refused() -> None:
    url = f"memory://{uuid.uuid4().hex}/model"
    remote = Remote(url)
    remote.write("file", b"1")
    objects = remote._storage.store
    objects[f"{remote._root}/../../escaped"] = objects.pop(f"{remote._root}/file")
    with pytest.raises(RemoteError, match=r"a file that would be written elsewhere, '\.\./\.\./escaped': remove it"):
        copied(url)


def test_what_is_not_wanted_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    remote = Remote(f"memory://{uuid.uuid4().hex}/model")
    for name in ("config.json", "weights.bin"):
        remote.write(name, b"1")
    assert [file.name for file in copied(remote.url, ("*.json",)).iterdir()] == ["config.json"]
    assert len(list(copied(remote.url).iterdir())) == 2


def test_what_a_killed_process_had_not_sent_is_not_sent_with_the_next() -> None:
    url = f"memory://{uuid.uuid4().hex}/checkpoints/step_"
    with written(f"{url}1") as first:
        pass
    first.mkdir()
    (first / "left").touch()
    with written(f"{url}2") as second:
        assert second == first
        (second / "file").touch()
    assert list(Remote(f"{url}2").files()) == ["file"]
    assert not second.exists()


def test_a_path_is_written_itself(tmp_path: Path) -> None:
    with written(str(tmp_path)) as folder:
        assert folder == tmp_path
    discard(str(tmp_path))
    assert not tmp_path.exists()
