"""Pinned packages: verified, cached, supplied by hand, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.demo.packages import PACKAGES, Package, PackageError, cache_dir, fetch

CONTENT = b"the package"
PACKAGE = Package(
    "some-sounds",
    "1:2.0-1",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
    "pool/main/s/some-sounds_2.0-1_all.deb",
    "MIT",
    "someone",
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Root of a mirror that a server on this machine serves; cache and variables point into `tmp_path`."""
    root = tmp_path / "mirror"
    (root / "pool/main/s").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AURICLE_DEBIAN_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("AURICLE_DEBS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_package_is_downloaded_once_and_then_taken_from_the_cache(mirror: Path) -> None:
    (mirror / PACKAGE.pool_path).write_bytes(CONTENT)
    path = fetch([PACKAGE])["some-sounds"]
    assert path == cache_dir() / "some-sounds_2.0-1_all.deb"
    assert path.read_bytes() == CONTENT
    (mirror / PACKAGE.pool_path).unlink()
    assert fetch([PACKAGE]) == {"some-sounds": path}
    assert [found.name for found in cache_dir().iterdir()] == [path.name]


def test_a_version_that_has_gone_names_the_variable_and_the_file(mirror: Path) -> None:
    with pytest.raises(PackageError) as caught:
        fetch([PACKAGE])
    message = str(caught.value)
    for part in ("gone from the mirror", "AURICLE_DEBS", "some-sounds_2.0-1_all.deb", PACKAGE.sha256, "404"):
        assert part in message


def test_a_mirror_that_is_not_reached_is_not_called_gone(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURICLE_DEBIAN_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(PackageError, match=r"was not reached.*AURICLE_DEBS"):
        fetch([PACKAGE])


def test_a_download_with_another_hash_is_refused_and_leaves_nothing_behind(mirror: Path) -> None:
    (mirror / PACKAGE.pool_path).write_bytes(b"another package")
    with pytest.raises(PackageError, match=f"pinned to {PACKAGE.sha256}"):
        fetch([PACKAGE])
    assert list(cache_dir().iterdir()) == []


@pytest.mark.parametrize("name", ["some-sounds_2.0-1_all.deb", "some-sounds_1%3a2.0-1_all.deb"])
def test_a_file_supplied_by_hand_comes_before_the_mirror(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.setenv("AURICLE_DEBS", str(tmp_path))
    assert fetch([PACKAGE]) == {"some-sounds": tmp_path / name}


def test_a_wrong_file_supplied_by_hand_is_refused_by_name(mirror: Path, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.file_name
    path.write_bytes(b"wrong")
    with pytest.raises(PackageError, match=f"{path.name} has SHA-256 .*AURICLE_DEBS"):
        fetch([PACKAGE], directory=tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"AURICLE_DEBS .*nowhere"):
        fetch([PACKAGE], directory=tmp_path / "nowhere")


def test_all_packages_together_are_at_most_500_megabytes_and_pinned() -> None:
    assert sum(package.size_bytes for package in PACKAGES) <= 500_000_000
    assert all(len(package.sha256) == 64 and package.licence and package.credit for package in PACKAGES)
