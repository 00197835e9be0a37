"""Read the rows of Parquet files and of datasets on disk, without the bytes of the clips in them.

Rows come as in `data.rows`, with the columns that are asked for. A clip that lies in the table comes as a
`StoredClip`, one that lies beside it as the text of its path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.arrow import open_shard, shards
from data.errors import DataError
from data.parquet import holds_bytes
from data.rows import Position, RowError
from data.types import ClipSource


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip whose bytes lie in the table, or should."""

    source: ClipSource
    name: str
    """What the table calls it; may be empty."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows that follow each other in one file."""

    path: str
    first: int
    """Number of the first row in its file."""
    rows: int
    plain: Mapping[str, Any]
    """Columns of values, by name."""
    names: Mapping[str, Any]
    """Paths of the clips by the name of their column; None where the column has none."""
    stored: Mapping[str, Any]
    """Whether the bytes of each clip are there, by the name of the column."""


def parquet_columns(path: str) -> list[str]:
    """Names of the columns; raises `DataError` for a file that is no Parquet."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(path: str) -> int:
    """Number of rows; raises `DataError` for a file that is no Parquet."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def dataset_columns(directory: str) -> list[str]:
    """Names of the columns of a dataset on disk; raises `DataError` for anything else."""
    return next((list(_open(shard).schema.names) for shard in shards(directory)), [])


def read_parquet_rows(path: str, columns: Collection[str]) -> Iterator[tuple[Position, object]]:
    """The rows of a Parquet file; those of a row group that is damaged come as errors."""
    import pyarrow

    with _opened(path) as file:
        clips, plain = _split(path, file.schema_arrow, columns)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                block = _parquet_block(file, path, group, first, plain, clips)
                found = list(_rows(block, first))
            except (pyarrow.ArrowException, OSError) as error:
                damaged = RowError("damaged", f"row group {group} cannot be decoded ({error}); write the file again")
                found = [(Position(row=row), damaged) for row in range(first, first + rows)]
            yield from found
            first += rows


def read_dataset_rows(directory: str, columns: Collection[str]) -> Iterator[tuple[Position, object]]:
    """The rows of a dataset on disk, counted over all shards; a damaged shard raises `DataError`."""
    import pyarrow

    before = 0
    for shard in shards(directory):
        reader = _open(shard)
        clips, plain = _split(shard, reader.schema, columns)
        first = 0
        try:
            for batch in _batches(reader):
                batch.validate(full=True)  # Arrow trusts what it maps: a wrong offset would end the process
                yield from _rows(_arrow_block(batch, shard, first, plain, clips), before + first)
                first += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{shard} is damaged after {first} rows ({error}); copy or save it again") from error
        before += first


def _opened(path: str) -> Any:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _read_names(file.schema_arrow)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; write it again or set data.format") from error
    return file


def _open(shard: str) -> Any:
    import pyarrow

    try:
        reader = open_shard(shard)
        _read_names(reader.schema)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shard} cannot be read as Arrow: {error}; copy or save it again") from error
    return reader


def _read_names(schema: Any) -> None:
    """Decode the names of columns and of their parts once, so that a wrong one is found where the file is opened."""
    for field in schema:
        _ = field.name, _fields(field.type)


def _batches(reader: Any) -> Iterator[Any]:
    """Record batches, of Arrow's file format too."""
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _fields(kind: Any) -> tuple[str, ...]:
    """Names of the parts of a struct, in order; none of another type."""
    from pyarrow import types

    if not types.is_struct(kind):
        return ()
    return tuple(kind.field(number).name for number in range(kind.num_fields))


def _split(path: str, schema: Any, columns: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The columns of clips with their types, and the names of the others, of those that are asked for.

    A clip is bytes, or a struct with `bytes` or `path` as `datasets` has it.
    """
    from pyarrow import types

    clips: dict[str, Any] = {}
    plain: list[str] = []
    for field in schema:
        name = field.name
        if name not in columns:
            continue
        if name in clips or name in plain:
            raise DataError(f"{path} has the column {name} twice; drop or rename one")
        fields = _fields(field.type)
        if {"bytes", "path"}.intersection(fields) or (holds_bytes(field.type) and not types.is_null(field.type)):
            clips[name] = field.type
        elif "array" not in fields:  # a clip that is decoded already is no clip of ours
            plain.append(name)
    return clips, plain


def _parquet_block(
    file: Any, path: str, group: int, first: int, plain: Collection[str], clips: Mapping[str, Any]
) -> _Block:
    from pyarrow import types

    rows = file.metadata.row_group(group).num_rows
    structs = {name: _fields(kind) for name, kind in clips.items() if types.is_struct(kind)}
    paths = [f"{name}.path" for name, fields in structs.items() if "path" in fields]
    table = file.read_row_group(group, columns=[*plain, *paths], use_threads=False).combine_chunks()
    if table.num_columns and table.num_rows != rows:
        raise OSError(f"{table.num_rows} of {rows} rows are there")
    names = {name: table.column(name) if f"{name}.path" in paths else None for name in clips}
    stored = {
        name: _stored(file, group, rows, f"{name}.bytes" if name in structs else name)
        if "bytes" in structs.get(name, {"bytes"})
        else [False] * rows
        for name in clips
    }
    return _Block(path, first, rows, {name: table.column(name) for name in plain}, names, stored)


def _stored(file: Any, group: int, rows: int, leaf: str) -> Any:
    """Whether the bytes of each row are there: by the group's statistics, or else by decoding the column."""
    number = next(number for number in range(len(file.schema)) if file.schema.column(number).path == leaf)
    statistics = file.metadata.row_group(group).column(number).statistics
    if statistics is not None and statistics.has_null_count and statistics.null_count in (0, rows):
        return [statistics.null_count == 0] * rows
    column = file.read_row_group(group, columns=[leaf], use_threads=False).column(0).combine_chunks()
    if len(column) != rows:
        raise OSError(f"{len(column)} of {rows} clips are there")
    return (column.flatten()[0] if "." in leaf else column).is_valid().to_pylist()


def _arrow_block(batch: Any, path: str, first: int, plain: Collection[str], clips: Mapping[str, Any]) -> _Block:
    names, stored = {}, {}
    for name, kind in clips.items():
        column = batch.column(name)
        fields = dict(zip(_fields(kind), column.flatten(), strict=True)) or {"bytes": column}
        names[name] = fields.get("path")
        stored[name] = fields["bytes"].is_valid().to_pylist() if "bytes" in fields else [False] * batch.num_rows
    return _Block(path, first, batch.num_rows, {name: batch.column(name) for name in plain}, names, stored)


def _rows(block: _Block, position: int) -> Iterator[tuple[Position, object]]:
    """The rows of a block whose first stands at `position` in the whole."""
    for row in range(block.rows):
        at = Position(row=position + row)
        try:
            values = {name: column[row].as_py() for name, column in block.plain.items()}
            for name, stored in block.stored.items():
                source = ClipSource(block.path, block.first + row, name)
                values[name] = _cell(source, block.names[name], row, stored[row])
        except UnicodeDecodeError as error:
            yield at, RowError("invalid_utf8", f"has text that is not UTF-8 ({error.reason}); write UTF-8")
        except (ValueError, OverflowError) as error:
            yield at, RowError("wrong_type", f"has a value that cannot be read ({error}); write it as text")
        else:
            yield at, values


def _cell(source: ClipSource, names: Any, row: int, stored: bool) -> StoredClip | str:
    """A clip that lies in the row, or the path of one that does not; where neither is, reading the row says so."""
    value = names[row].as_py() if names is not None else None
    name = (value["path"] if isinstance(value, dict) else value) or ""
    return name if name and not stored else StoredClip(source, name)
