"""Where a run's directory lies: on a file system that every node mounts, or on a storage that a URL names.

This process writes into `path` in either case. What other nodes write of the run, `rollouts/`, `checkpoints/` and
`engine_model/`, they write at the `place` of its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

from cluster.run_lock import RunLock, UrlLock
from data.cache import cache_directory
from data.checksums import Checksums
from data.remote import WHOLE, Remote, is_url

WRITTEN_BY_OTHERS = ("checkpoints", "rollouts", "clips", "engine_model")
COPIED_BACK = ("", "eval", "wandb")
"""Directories whose files, but none in theirs, a resume reads or goes on with."""


class DiskStorage:
    """A run's directory that every node mounts; names are relative to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RunLock(path)

    def __str__(self) -> str:
        """What a user calls it."""
        return str(self.path)

    def place(self, name: str) -> str:
        """Where an actor on any node writes and reads that file or directory: an absolute path or a URL."""
        return str((self.path / name).absolute())

    def exists(self, name: str) -> bool:
        """Whether a file or a directory is there."""
        return (self.path / name).exists()

    def read(self, name: str) -> str | None:
        """The text of a file, None where there is none."""
        file = self.path / name
        return file.read_text() if file.exists() else None

    def names(self, directory: str) -> list[str]:
        """Of files and directories in a directory, without those that begin with a dot."""
        folder = self.path / directory
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path.name for path in found if not path.name.startswith(".")]

    def whole(self, directory: str) -> list[str]:
        """Of directories in a directory that were finished."""
        return self.names(directory)  # a directory takes its name when it is whole

    def remove(self, name: str) -> None:
        """Remove a file or a directory, if it is there."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def move_aside(self, ending: str) -> None:
        """Give the run's directory a longer name."""
        self.path.rename(self.path.with_name(self.path.name + ending))

    def check_free(self) -> None:
        """Raise RunInUse where another process has the run; changes nothing."""
        self._lock.check()

    def claim(self) -> None:
        """Take the run, and have in `path` what is there of it; raises RunInUse."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        for left in self.path.glob("*/.*.tmp"):  # checkpoints of a process that was killed
            shutil.rmtree(left)
        for left in self.path.rglob(".*.part"):  # and files, which another may just be about to finish
            left.unlink(missing_ok=True)

    def release(self) -> None:
        """Let the next process have the run."""
        self._lock.release()

    def publish(self) -> None:
        """Let others have what has changed in `path`: here they see it as it is."""

    def begin(self, name: str) -> str:
        """The place to write a new directory of that name into."""
        temporary = self._temporary(name)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return str(temporary.absolute())

    def finish(self, name: str, files: Checksums) -> None:
        """The directory that was begun is whole and holds these files: it takes the place of any other of its name."""
        final = self.path / name
        (self._temporary(name) / WHOLE).write_text(_mark(files))
        shutil.rmtree(final, ignore_errors=True)
        self._temporary(name).rename(final)

    def set_aside(self, name: str) -> str:
        """Have a directory not count as whole any more; tells where it is kept."""
        aside = self.path / f"{name}.broken"
        shutil.rmtree(aside, ignore_errors=True)
        (self.path / name).rename(aside)
        return str(aside)

    def _temporary(self, name: str) -> Path:
        return (self.path / name).with_name(f".{Path(name).name}.tmp")


class UrlStorage:
    """A run's directory on a storage by URL, and a working copy of this process's part of it in the user's cache."""

    def __init__(self, url: str) -> None:
        self._remote = Remote(url)
        parent, _, name = self._remote.url.rpartition("/")
        self.path = cache_directory() / "runs" / hashlib.sha256(parent.encode()).hexdigest()[:16] / name
        self._lock = UrlLock(self._remote)
        self._claimed = False
        self._published: dict[str, tuple[int, int]] = {}
        """Time and size of each file of `path` when it was last the same as there."""
        self._publishing = threading.Lock()
        """One at a time: of two the older might end last."""

    def __str__(self) -> str:
        return self._remote.url

    def place(self, name: str) -> str:
        return f"{self._remote.url}/{name}"

    def exists(self, name: str) -> bool:
        return self._remote.exists(name)

    def read(self, name: str) -> str | None:
        if self._claimed and Path(name).parts[0] not in WRITTEN_BY_OTHERS:
            file = self.path / name
            return file.read_text() if file.exists() else None
        content = self._remote.read(name)
        return None if content is None else content.decode()

    def names(self, directory: str) -> list[str]:
        return sorted({parts[0] for parts in self._parts(directory) if not parts[0].startswith(".")})

    def whole(self, directory: str) -> list[str]:
        return sorted({parts[0] for parts in self._parts(directory) if parts[1:] == [WHOLE]})

    def _parts(self, directory: str) -> list[list[str]]:
        """The names of all files in a directory, split."""
        return [name.removeprefix(f"{directory}/").split("/") for name in self._remote.files(directory)]

    def remove(self, name: str) -> None:
        self._remote.remove(f"{name}/{WHOLE}")  # what is left of it when this is broken off counts no more
        self._remote.remove(name)

    def move_aside(self, ending: str) -> None:
        self._remote.move(self._remote.url + ending)

    def check_free(self) -> None:
        self._lock.check()

    def claim(self) -> None:
        self._lock.acquire()
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        files = [name for name in self._remote.files() if name.rpartition("/")[0] in COPIED_BACK]
        self._remote.fetch([name for name in files if not name.startswith(".")], self.path)
        self._published = self._own_files()
        self._claimed = True

    def release(self) -> None:
        self._lock.release()

    def publish(self) -> None:
        """Send what has changed in `path`, and remove there what has been removed here; raises RunInUse."""
        with self._publishing:
            self._lock.check_held()
            files = self._own_files()
            self._remote.send(self.path, [name for name, state in files.items() if self._published.get(name) != state])
            for name in self._published.keys() - files.keys():
                self._remote.remove(name)
            self._published = files

    def begin(self, name: str) -> str:
        self._lock.check_held()
        self.remove(name)
        return self.place(name)

    def finish(self, name: str, files: Checksums) -> None:
        self.publish()  # what leads up to it is there before it
        self._remote.write(f"{name}/{WHOLE}", _mark(files).encode())

    def set_aside(self, name: str) -> str:
        self._remote.remove(f"{name}/{WHOLE}")  # from now on it counts no more
        aside = f"{name}.broken"
        self._remote.remove(aside)
        Remote(self.place(name)).move(self.place(aside))
        return self.place(aside)

    def _own_files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder, _, files in os.walk(self.path):
            for name in files:
                file = Path(folder) / name
                relative = file.relative_to(self.path)
                if not name.startswith(".") and relative.parts[0] not in WRITTEN_BY_OTHERS:
                    state = file.stat()
                    found[relative.as_posix()] = state.st_mtime_ns, state.st_size
        return found


RunStorage = DiskStorage | UrlStorage
"""What a method of either does, `DiskStorage` says."""


def storage_of(place: str) -> RunStorage:
    """The storage of the run directory at a path or URL."""
    return UrlStorage(place) if is_url(place) else DiskStorage(Path(place))


def _mark(files: Checksums) -> str:
    """What `WHOLE` holds."""
    return json.dumps({"time": time.time(), "files": files}, indent=1) + "\n"
