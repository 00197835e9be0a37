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


def test_a_path_is_written_itself(tmp_path: Path) -> None:
    with written(tmp_path) as folder:
        assert folder == tmp_path
    discard(str(tmp_path))
    assert not tmp_path.exists()
