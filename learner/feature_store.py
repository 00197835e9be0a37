"""A frozen tower's output on disk: Parquet files of many clips, written and read by several processes at once.

A process writes files of its own under a temporary name and renames them when they are whole; nobody changes a file
afterwards. What others have written is found by looking into the directory again when a clip is missing. Two
processes that encode a clip at the same time both write it, which does no harm. A file that is cut short or damaged
(pages carry checksums) is told of and left out, and its clips are encoded again.

    add ---> unsaved ---(enough bytes, or a pause)---> file ---> get
                 \\________________________________________________/
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.whole_file import whole_file

Floats = NDArray[np.float32]

FILE_BYTES = 32_000_000
"""Output that goes into one file at most, a single longer clip aside."""

ROW_GROUP_BYTES = 1_000_000
"""Output that is read at once: large enough for many short clips, small enough for one clip out of order."""

PAUSE_SECONDS = 2.0
"""Without a new clip for so long, what is unsaved is written."""

LONGEST_SECONDS = 60.0
"""What is unsaved waits no longer than this, so that a killed process loses a minute's work at most."""

OPEN_FILES = 64
ABANDONED_SECONDS = 3600.0
"""A temporary file of this age belongs to a process that was killed."""

SCHEMA = pa.schema([("clip", pa.string()), ("audio_tokens", pa.int32()), ("pooled", pa.binary())])
"""`pooled` is float32, little-endian, (audio_tokens, d_model) row by row."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    row_group: int


class FeatureStore:
    """Arrays (audio_tokens, `width`) by name in the files of a directory.

    Args:
        directory: made if it is not there.
        width: d_model of the tower.
        memory_bytes: bound of what is held, unsaved or read.
    """

    def __init__(self, directory: Path, width: int, memory_bytes: int) -> None:
        self.directory = directory
        self.width = width
        self.memory_bytes = memory_bytes
        self._places: dict[str, _Place] = {}
        self._seen: set[str] = set()
        self._seen_at = -1
        self._open: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._unsaved: dict[str, Floats] = {}
        self._unsaved_since = 0.0
        self._recent: OrderedDict[str, Floats] = OrderedDict()
        self._recent_bytes = self._unsaved_bytes = 0
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        directory.mkdir(parents=True, exist_ok=True)
        for partial in directory.glob(".*.part"):
            _remove_abandoned(partial)

    def get(self, name: str) -> Floats | None:
        """The array of that name, float32 (audio_tokens, width), or None where there is none."""
        with self._lock:
            if name in self._unsaved:
                return self._unsaved[name]
            if name in self._recent:
                self._recent.move_to_end(name)
                return self._recent[name]
            if name not in self._places:
                self._look()
            place = self._places.get(name)
            return None if place is None else self._read(name, place)

    def add(self, name: str, array: Floats) -> None:
        """Have an array written, soon and together with others."""
        with self._lock:
            if not self._unsaved:
                self._unsaved_since = time.monotonic()
            self._unsaved[name] = array
            self._unsaved_bytes += array.nbytes
            if self._unsaved_bytes >= min(FILE_BYTES, self.memory_bytes // 2):
                self.save()
            else:
                self._bound_memory()
                self._save_after_a_pause()

    def save(self) -> None:
        """Write what is unsaved as one more file. A disk that does not take it is told of, and the arrays are lost."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self._unsaved:
                return
            name = uuid.uuid4().hex
            path = self.directory / f"{name}.parquet"
            groups = list(_row_groups(self._unsaved))
            try:
                with whole_file(path) as partial, pq.ParquetWriter(
                    partial, SCHEMA, compression="none", use_dictionary=False, write_statistics=False,
                    write_page_checksum=True,
                ) as writer:  # fmt: skip
                    for group in groups:
                        arrays = [self._unsaved[clip] for clip in group]
                        columns = [group, [len(array) for array in arrays], [_bytes(array) for array in arrays]]
                        writer.write_table(pa.table(columns, schema=SCHEMA))
            except OSError as error:
                log.warning("%s cannot be written (%s): tower output is not kept", path, error)
            else:
                self._seen.add(path.name)
                for number, group in enumerate(groups):
                    self._places |= {clip: _Place(path, number) for clip in group}
            self._unsaved.clear()
            self._unsaved_bytes = 0

    def _save_after_a_pause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self._unsaved_since + LONGEST_SECONDS - time.monotonic()
        self._timer = threading.Timer(max(min(PAUSE_SECONDS, left), 0.0), self.save)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        """Take in the files that have come since the last look."""
        try:
            changed_at = self.directory.stat().st_mtime_ns
        except FileNotFoundError:  # emptied while we run
            return
        if changed_at == self._seen_at:
            return
        self._seen_at = changed_at
        for path in sorted(self.directory.glob("*.parquet")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            file = self._opened(path)
            if not file.schema_arrow.equals(SCHEMA):
                raise pa.ArrowInvalid(f"its columns are {file.schema_arrow.names}")
            names = iter(file.read(columns=["clip"], use_threads=False).column("clip").to_pylist())
        except (pa.ArrowException, OSError, ValueError) as error:
            self._leave_out(path, error)
            return
        for group in range(file.metadata.num_row_groups):
            place = _Place(path, group)
            self._places |= dict.fromkeys(islice(names, file.metadata.row_group(group).num_rows), place)

    def _read(self, wanted: str, place: _Place) -> Floats | None:
        """Read the row group that holds a clip, and keep its neighbours for the next call."""
        try:
            table = self._opened(place.path).read_row_group(place.row_group, use_threads=False)
            found: dict[str, Floats] = dict(zip(table.column("clip").to_pylist(), self._arrays(table), strict=True))
            array = found.pop(wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._leave_out(place.path, error)
            return None
        for name, neighbour in [*found.items(), (wanted, array)]:
            if name not in self._recent:
                self._recent[name] = neighbour
                self._recent_bytes += neighbour.nbytes
        self._bound_memory()
        return array

    def _arrays(self, table: pa.Table) -> Iterator[Floats]:
        """Copies, since a view would hold the whole row group."""
        for tokens, pooled in zip(table.column("audio_tokens").to_pylist(), table.column("pooled"), strict=True):
            yield np.frombuffer(pooled.as_buffer(), "<f4").reshape(tokens, self.width).astype(np.float32)

    def _bound_memory(self) -> None:
        while self._recent and self._recent_bytes + self._unsaved_bytes > self.memory_bytes:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.nbytes

    def _opened(self, path: Path) -> pq.ParquetFile:
        if path not in self._open:
            self._open[path] = pq.ParquetFile(path, page_checksum_verification=True)
        self._open.move_to_end(path)
        while len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return self._open[path]

    def _leave_out(self, path: Path, error: Exception) -> None:
        log.warning("%s is left out, delete it: %s", path, error)
        self._open.pop(path, None)
        self._places = {name: place for name, place in self._places.items() if place.path != path}


def _row_groups(arrays: dict[str, Floats]) -> Iterator[list[str]]:
    """Names in order, of about ROW_GROUP_BYTES together."""
    group: list[str] = []
    used = 0
    for name, array in arrays.items():
        if group and used + array.nbytes > ROW_GROUP_BYTES:
            yield group
            group, used = [], 0
        group.append(name)
        used += array.nbytes
    if group:
        yield group


def _bytes(array: Floats) -> memoryview:
    return np.ascontiguousarray(array, "<f4").data.cast("B")


def _remove_abandoned(partial: Path) -> None:
    try:
        if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
            partial.unlink()
    except FileNotFoundError:
        pass  # its writer has renamed it
