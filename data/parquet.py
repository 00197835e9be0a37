"""Read the encoded bytes of one clip from a row of a Parquet file.

Shuffled training reads rows in any order, so files stay open (memory-mapped, a few of them) and the row group that
was read last stays decoded. A row costs the decoding of its row group's audio column: write files with row groups of
a few tens of rows.
"""

from __future__ import annotations

import bisect
import itertools
import os
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from data.errors import ClipError

if TYPE_CHECKING:
    from data.types import ClipSource

OPEN_FILES = 8
"""Files kept open by a process."""

_COLUMN = "audio.bytes"


def read_clip_bytes(source: ClipSource) -> bytes:
    """The encoded bytes at `source.row` of the Parquet file at `source.path`; raises `ClipError`."""
    return _READERS.get(source).read(source)


class _Reader:
    """An open Parquet file and its row group that was read last."""

    def __init__(self, source: ClipSource) -> None:
        import pyarrow.parquet

        self._file: Any = pyarrow.parquet.ParquetFile(source.path, memory_map=True)
        metadata = self._file.metadata
        paths = [metadata.schema.column(column).path for column in range(metadata.num_columns)]
        if _COLUMN not in paths:
            self._file.close()
            raise ClipError("unreadable", source, f"has no column {_COLUMN}; store clips as audio: {{bytes, path}}")
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(counts)]
        """First row of each row group, and the number of rows."""
        self._group = -1
        self._bytes: Any = None
        self._lock = threading.Lock()

    def read(self, source: ClipSource) -> bytes:
        import pyarrow

        row = source.row
        if row is None or not 0 <= row < self._starts[-1]:
            raise ClipError("missing", source, f"the file has {self._starts[-1]} rows, from 0; check the row")
        group = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            if group != self._group:
                try:
                    table = self._file.read_row_group(group, columns=[_COLUMN], use_threads=False)
                except (pyarrow.ArrowException, OSError) as error:
                    raise ClipError(
                        "unreadable", source, f"row group {group}: {error}; write the file again"
                    ) from error
                self._bytes, self._group = table.column("audio"), group
            audio = self._bytes[row - self._starts[group]].as_py()
        encoded = audio["bytes"] if audio is not None else None
        if encoded is None:
            raise ClipError("missing", source, "audio.bytes is null; store the encoded clip in the row")
        if not isinstance(encoded, bytes):
            raise ClipError("unreadable", source, f"audio.bytes is {type(encoded).__name__}, not binary")
        if not encoded:
            raise ClipError("empty", source, "audio.bytes has 0 bytes; store the encoded clip in the row")
        return encoded


class _Readers:
    """Open readers, the least recently used of them closed first; a file that was replaced is opened anew."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[object, ...], _Reader] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: ClipSource) -> _Reader:
        import pyarrow

        try:
            status = os.stat(source.path)
        except FileNotFoundError as error:
            raise ClipError("missing", source, "there is no such file; check data.train and its kin") from error
        except (OSError, ValueError) as error:
            raise ClipError("unreadable", source, f"{error}; the file must be readable by this process") from error
        if not stat.S_ISREG(status.st_mode):
            raise ClipError("unreadable", source, "is not a regular file; name a Parquet file")
        key = (source.path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if key not in self._open:
                try:
                    self._open[key] = _Reader(source)
                except (pyarrow.ArrowException, OSError) as error:
                    raise ClipError("unreadable", source, f"is not Parquet ({error}); write it again") from error
            self._open.move_to_end(key)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
            return self._open[key]


_READERS = _Readers()
