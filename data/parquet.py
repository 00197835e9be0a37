"""Read the encoded bytes of one clip from a row of a Parquet file or of an Arrow shard.

Shuffled training reads rows in any order, so a few files stay open. A row of a shard, which is memory-mapped, is read
alone. A row of Parquet costs the decoding of its row group's audio column, and the group that was read last stays
decoded: write files with row groups of a few tens of rows. Parquet is not mapped, which gains nothing and counts every
page that was read as this process's memory.
"""

from __future__ import annotations

import bisect
import itertools
import os
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from data.arrow import open_shard
from data.errors import ClipError

if TYPE_CHECKING:
    from data.types import ClipSource

OPEN_FILES = 8
"""Files kept open by a process."""

MAGIC = b"PAR1"
"""The first bytes of a Parquet file."""


def is_parquet(path: str) -> bool:
    """Whether the file begins as Parquet does."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def holds_bytes(kind: Any) -> bool:
    """Whether a value of this Arrow type is bytes, or null in every row."""
    from pyarrow import types

    tests = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary, types.is_null)
    return any(test(kind) for test in tests)


def read_clip_bytes(source: ClipSource) -> bytes:
    """The encoded bytes at `source.row` and `source.column` of the table at `source.path`; raises `ClipError`."""
    encoded = _READERS.get(source).read(source)
    name = f"{source.column}.bytes"
    if encoded is None:
        raise ClipError("missing", source, f"{name} is null; store the encoded clip in the row")
    if not encoded:
        raise ClipError("empty", source, f"{name} has 0 bytes; store the encoded clip in the row")
    return encoded


class _Parquet:
    """An open Parquet file and its row group that was read last."""

    def __init__(self, source: ClipSource) -> None:
        import pyarrow.parquet

        self._file: Any = pyarrow.parquet.ParquetFile(source.path)
        try:
            self._leaf = _leaf(self._file.schema_arrow, source)
        except ClipError:
            self._file.close()
            raise
        metadata = self._file.metadata
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(counts)]
        """First row of each row group, and the number of rows."""
        self._group = -1
        self._column: Any = None
        self._lock = threading.Lock()

    def read(self, source: ClipSource) -> bytes | None:
        import pyarrow

        row = _row(source, self._starts[-1])
        group = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            if group != self._group:
                try:
                    table = self._file.read_row_group(group, columns=[self._leaf], use_threads=False)
                    if len(table) != self._starts[group + 1] - self._starts[group]:
                        raise OSError(f"{len(table)} rows are there")
                except (pyarrow.ArrowException, OSError) as error:
                    raise ClipError(
                        "unreadable", source, f"row group {group}: {error}; write the file again"
                    ) from error
                self._column, self._group = table.column(source.column), group
            return _bytes(self._column[row - self._starts[group]])


class _Shard:
    """An open Arrow shard."""

    def __init__(self, source: ClipSource) -> None:
        table = open_shard(source.path).read_all()
        _leaf(table.schema, source)
        self._column = table.column(source.column)

    def read(self, source: ClipSource) -> bytes | None:
        return _bytes(self._column[_row(source, len(self._column))])


class _Readers:
    """Open readers, the least recently used of them closed first; a file that was replaced is opened anew."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[object, ...], _Parquet | _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: ClipSource) -> _Parquet | _Shard:
        import pyarrow

        try:
            status = os.stat(source.path)
        except FileNotFoundError as error:
            raise ClipError("missing", source, "there is no such file; check data.train and its kin") from error
        except (OSError, ValueError) as error:
            raise ClipError("unreadable", source, f"{error}; the file must be readable by this process") from error
        if not stat.S_ISREG(status.st_mode):
            raise ClipError("unreadable", source, "is not a regular file; name a Parquet file")
        key = (source.path, source.column, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if key not in self._open:
                kind = "an Arrow shard" if source.path.endswith(".arrow") else "Parquet"
                try:
                    self._open[key] = _Shard(source) if source.path.endswith(".arrow") else _Parquet(source)
                except (pyarrow.ArrowException, OSError) as error:
                    raise ClipError("unreadable", source, f"is not {kind} ({error}); write it again") from error
            self._open.move_to_end(key)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
            return self._open[key]


def _leaf(schema: Any, source: ClipSource) -> str:
    """The dotted name of the column that holds the bytes; raises `ClipError` where there is none."""
    from pyarrow import types

    kind = schema.field(source.column).type if source.column in schema.names else None
    name = source.column
    if kind is not None and types.is_struct(kind):
        name, index = f"{name}.bytes", kind.get_field_index("bytes")
        kind = kind.field(index).type if index >= 0 else None
    if kind is None:
        mend = f"store clips as {source.column}: {{bytes, path}}"
        raise ClipError("unreadable", source, f"has no column {source.column}.bytes; {mend}")
    if not holds_bytes(kind):
        raise ClipError("unreadable", source, f"{name} is {kind}, not binary; store the encoded clip in the row")
    return name


def _row(source: ClipSource, rows: int) -> int:
    if source.row is None or not 0 <= source.row < rows:
        raise ClipError("missing", source, f"the file has {rows} rows, from 0; check the row")
    return source.row


def _bytes(value: Any) -> bytes | None:
    """The bytes in a cell that is binary or a struct, whose other fields are left alone."""
    import pyarrow

    if isinstance(value, pyarrow.StructScalar):
        value = value["bytes"] if value.is_valid else None
    found: bytes | None = value.as_py() if value is not None else None
    return found


_READERS = _Readers()
