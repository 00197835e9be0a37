"""Write Auricle's Parquet: questions with their clips inside, in row groups that shuffled reading can afford."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.whole_file import whole_file

ROW_GROUP_ROWS = 10
"""A clip is read with its whole row group, in an order that is shuffled."""

ROW_GROUP_BYTES = 256 * 2**20
"""Of clips; a row group is closed before it would hold more, unless it is one clip."""

QUESTION = (
    ("question", pa.string()),
    ("choices", pa.list_(pa.string())),
    ("answer", pa.string()),
    ("task", pa.string()),
    ("sub_category", pa.string()),
    ("difficulty", pa.string()),
    ("source", pa.string()),
)
"""What `Example.columns` fills."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *QUESTION,
        ("licence", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""`sha256` is of `audio.bytes` as they stand; clips are encoded already, so that nothing is compressed again."""


class QuestionFile:
    """A file that is being written; holds one row group."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._held: list[Mapping[str, Any]] = []
        self._held_bytes = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row with the columns of `SCHEMA`."""
        size = len(row["audio"]["bytes"])
        if self._held_bytes + size > ROW_GROUP_BYTES:
            self.flush()
        self._held.append(row)
        self._held_bytes += size
        if len(self._held) == ROW_GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are held as a row group."""
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=SCHEMA))
        self._held, self._held_bytes = [], 0


@contextmanager
def write_questions(path: Path) -> Iterator[QuestionFile]:
    """A Parquet file that takes its name when the block ends well."""
    with whole_file(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="none") as writer:
        file = QuestionFile(writer)
        yield file
        file.flush()
