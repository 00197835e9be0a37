"""Directories that a URL names, such as `s3://bucket/runs`, through fsspec.

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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from data.cache import cache_directory

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_CONTENT = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""By these a storage tells that a file of the same size is another one."""


class RemoteError(RuntimeError):
    """A storage cannot be reached, read or written."""


def is_url(place: str) -> bool:
    """Whether it is the name of a storage, and no path."""
    return _URL.match(place) is not None


class Remote:
    """A directory by its URL. Names of files are relative to it.

    Args:
        url: of any protocol that an installed fsspec package knows.

    Raises:
        RemoteError: by every method; names the URL, what failed and the mend.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._telling("used"):
            self._storage, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            self._root = str(root).rstrip("/")

    def exists(self, name: str = "") -> bool:
        """Whether a file or a directory is there."""
        with self._telling("read"):
            return bool(self._storage.exists(self._at(name)))

    def files(self, directory: str = "") -> dict[str, str]:
        """Every file in a directory and those in it, with what changes when its content does; none where it is not."""
        with self._telling("listed"):
            found: dict[str, dict[str, Any]] = self._storage.find(self._at(directory), detail=True)
        return {
            path.removeprefix(self._root).lstrip("/"): repr([about["size"], *(str(about.get(key)) for key in _CONTENT)])
            for path, about in sorted(found.items())
        }

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


def copied(url: str) -> Path:
    """The directory at `url`, copied to this machine once, and again when a file of it has changed.

    Copies stay in `remote/` of the user's cache; the processes of a machine share them.
    """
    remote = Remote(url)
    files = remote.files()
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


@contextmanager
def written(place: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to write files into, which are at `place` when the block has ended well; a path is that itself."""
    place = os.fspath(place)
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="auricle-") as folder:
        yield Path(folder)
        Remote(place).send(Path(folder))
