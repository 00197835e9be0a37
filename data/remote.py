"""Directories of object storages that a URL names, such as `s3://bucket/runs`, through fsspec.

Models are loaded from files and weights are written to files, so what is read is copied to this machine first, and what
is written goes there when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from data.cache import cache_directory

WHOLE = "whole.json"
"""The file that tells that a directory is whole, where it cannot take its name at once."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class RemoteError(RuntimeError):
    """A storage cannot be reached, read or written."""


def is_url(place: str) -> bool:
    """Whether it is the name of a storage, and no path."""
    return _URL.match(place) is not None


class Remote:
    """A directory by its URL. Names of files are relative to it.

    Args:
        url: of an object storage whose protocol an installed fsspec package knows.

    Raises:
        RemoteError: by every method; names the URL, what failed and the mend.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if url.startswith(("file:", "local:")):
            raise RemoteError(f"{url} is a directory of this machine: give its path, without {url.split('//')[0]}//")
        with self._telling("used"):
            self._storage, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            self._root = str(root).rstrip("/")

    def exists(self, name: str = "") -> bool:
        """Whether a file or a directory is there."""
        with self._telling("read"):
            return bool(self._storage.exists(self._at(name)))

    def files(self, directory: str = "") -> dict[str, str]:
        """Every file in a directory and those in it, with what the storage tells of it, times and hashes among it.

        Empty where the directory is not there.
        """
        files = {
            name: repr(sorted(about.items(), key=lambda entry: str(entry[0])))
            for name, about in sorted(self._found(directory).items())
        }
        if outside := [name for name in files if ".." in name.split("/")]:
            raise RemoteError(f"{self.url} has a file that would be written elsewhere, {outside[0]!r}: remove it")
        return files

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the directory and those in it."""
        return {name: int(about["size"]) for name, about in self._found("").items()}

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        with self._telling("read"):
            try:
                return bytes(self._storage.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which readers see whole or not at all."""
        with self._telling("written"):
            self._storage.pipe_file(self._at(name), content)

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """Copy files into a folder of this machine."""
        wanted = {self._at(name): folder / name for name in names}
        for parent in {path.parent for path in wanted.values()}:
            parent.mkdir(parents=True, exist_ok=True)
        if wanted:
            with self._telling("read"):
                self._storage.get([*wanted], [str(path) for path in wanted.values()])

    def send(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Copy files of a folder of this machine here, by default all of them."""
        if names is None:
            names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
        sent = {str(folder / name): self._at(name) for name in names}
        if sent:
            with self._telling("written"):
                self._storage.put([*sent], [*sent.values()])

    def remove(self, name: str = "") -> None:
        """Remove a file, or a directory with all that is in it, if it is there."""
        with self._telling("written"):
            if self._storage.exists(self._at(name)):
                self._storage.rm(self._at(name), recursive=True)

    def move(self, url: str) -> None:
        """Give the directory another name on the same storage. Most storages copy its files."""
        with self._telling("moved"):
            self._storage.mv(self._root, Remote(url)._root, recursive=True)

    def _found(self, directory: str) -> dict[str, dict[str, Any]]:
        """What the storage tells of every file in a directory and those in it, by their names."""
        with self._telling("listed"):
            found: dict[str, dict[str, Any]] = self._storage.find(self._at(directory), detail=True)
        return {path.removeprefix(self._root).lstrip("/"): about for path, about in found.items()}

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        try:
            yield
        except RemoteError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise RemoteError(
                f"{self.url} cannot be {done} ({what}): every node needs fsspec's package of its protocol (s3fs for "
                f"s3://, gcsfs for gs://), the storage's credentials, and the right to read and write there"
            ) from error


def local(place: str) -> Path:
    """The directory at a path, or the copy of one at a URL."""
    return copied(place) if is_url(place) else Path(place)


def copied(url: str, wanted: Sequence[str] = ("*",)) -> Path:
    """The directory at `url`, copied to this machine once, and again when a file of it has changed.

    Copies stay in `remote/` of the user's cache; the processes of a machine share them.

    Args:
        url: of the directory.
        wanted: patterns of the names of its files that are needed.
    """
    remote = Remote(url)
    files = {name: about for name, about in remote.files().items() if any(fnmatch(name, one) for one in wanted)}
    if not files:
        raise RemoteError(f"{url} holds no file: name the directory itself, as the storage lists it")
    key = hashlib.sha256(json.dumps([remote.url, files]).encode()).hexdigest()[:16]
    place = cache_directory() / "remote" / key
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.exists():
            partial = place.with_name(f"{key}.part")
            shutil.rmtree(partial, ignore_errors=True)
            remote.fetch(files, partial)
            partial.rename(place)
    return place


def discard(place: str) -> None:
    """Remove a directory by its path or URL, if it is there."""
    if is_url(place):
        Remote(place).remove()
    else:
        shutil.rmtree(place, ignore_errors=True)


def sizes(place: str) -> dict[str, int]:
    """Bytes of every file of a directory by its path or URL; of none where it is not there."""
    if is_url(place):
        return Remote(place).sizes()
    with suppress(FileNotFoundError), os.scandir(place) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    return {}


def remove(place: str) -> None:
    """Remove a file by its path or URL, if it is there."""
    if is_url(place):
        directory, _, name = place.rpartition("/")
        Remote(directory).remove(name)
    else:
        Path(place).unlink(missing_ok=True)


@contextmanager
def written(place: str) -> Iterator[Path]:
    """A directory to write files into, which are at `place` when the block has ended well; a path is that itself.

    One process of a machine at a time. What one that was killed had not sent goes with the next of the same kind.
    """
    if not is_url(place):
        yield Path(place)
        return
    kind = hashlib.sha256(re.sub(r"\d+$", "", place).encode()).hexdigest()[:16]  # every step_N of a run is of one
    folder = Path(tempfile.gettempdir()) / f"auricle-{os.getuid()}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
        Remote(place).send(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
