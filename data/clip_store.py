"""The recordings of a run, each kept once, as its bytes were read, under their hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data.audio import read_encoded
from data.errors import ClipError
from data.remote import RemoteError, remove, sizes, written
from data.types import ClipSource
from data.whole_file import WriteError, whole_file, writing

NAME = re.compile(r"[0-9a-f]{64}")
"""Of a recording: the SHA-256 of its bytes. Silence that was made has another."""


class ClipStore:
    """Keeps recordings while there is room; what it holds is never changed, and no run ends for it.

    Args:
        place: path or URL of its directory.
        most_bytes: room for all of them together.
    """

    def __init__(self, place: str, most_bytes: int) -> None:
        self.place = place
        self._room = most_bytes
        self._looked = False
        self._known: set[str] = set()
        """Names of what is there, or was found to be no recording of that hash any more."""

    def add(self, clips: Mapping[str, ClipSource]) -> tuple[str, ...]:
        """Keep the recordings that are not there yet, by the SHA-256 of their bytes; gives what is to be told of that.

        One that has been changed or removed since it was heard is passed over. From the first on that there is no room
        for, or that cannot be written, nothing is kept any more.
        """
        if self._room <= 0:
            return ()
        try:
            self._look()
            wanted = {name: clip for name, clip in clips.items() if NAME.fullmatch(name) and name not in self._known}
            if not wanted:
                return ()
            with written(self.place) as folder:
                folder.mkdir(exist_ok=True)
                for sha256, source in wanted.items():
                    self._known.add(sha256)
                    with suppress(ClipError):
                        self._keep(folder / sha256, read_encoded(source))
                    if self._room <= 0:
                        break
        except (WriteError, RemoteError, OSError) as error:
            self._room = 0
            return (f"recordings are not kept any more: {error}",)
        return ("clips/ is full (logging.clips_bytes): further recordings are not kept",) if self._room <= 0 else ()

    def _look(self) -> None:
        """Find what an earlier process has kept; what it had only begun goes."""
        if self._looked:
            return
        self._looked = True
        for name, size in sizes(self.place).items():
            if NAME.fullmatch(name):
                self._known.add(name)
                self._room -= size
            else:
                remove(f"{self.place}/{name}")

    def _keep(self, path: Path, encoded: bytes) -> None:
        if hashlib.sha256(encoded).hexdigest() != path.name:
            return
        if len(encoded) > self._room:
            self._room = 0
            return
        with writing(path, len(encoded)), whole_file(path) as partial:
            partial.write_bytes(encoded)
        self._room -= len(encoded)
