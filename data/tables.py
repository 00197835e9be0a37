"""Read the rows of Parquet files and of datasets on disk, without the bytes of the clips in them.

Rows come as in `data.rows`. A clip that lies in the table comes as a
`StoredClip`, one that lies beside it as the text of its path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from data.arrow import open_shard, shards
from data.errors import DataError
from data.parquet import holds_bytes
from data.rows import Position, RowError
from data.types import ClipSource

BATCH_ROWS = 64
"""Rows of Parquet that are decoded at a time, however many stand in a row group."""

READ_BYTES = 2**20
"""Of a column of Parquet, read at a time; without that, and where it is buffered ahead, it is read whole."""


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


def read_parquet_rows(
    path: str, columns: Collection[str], clip_columns: Collection[str]
) -> Iterator[tuple[Position, object]]:
    """The rows of a Parquet file; those of a row group from where it is damaged come as errors.

    Args:
        path: of the file.
        columns: that mean something; of the others those of text, lists of it, numbers, true and false come too.
        clip_columns: those of `columns` that have clips or their paths.
    """
    import pyarrow

    with _opened(path) as file:
        clips, plain = _split(path, file.schema_arrow, columns, clip_columns)
        first = 0
        for group in range(file.num_row_groups):
            rows, read = file.metadata.row_group(group).num_rows, 0
            try:
                for block in _parquet_blocks(file, path, group, first, plain, clips):
                    yield from list(_rows(block, block.first))
                    read += block.rows
                if read != rows:
                    raise OSError(f"{read} of {rows} rows are there")
            except (pyarrow.ArrowException, OSError) as error:
                damaged = RowError("damaged", f"row group {group} cannot be decoded ({error}); write the file again")
                yield from ((Position(row=row), damaged) for row in range(first + read, first + rows))
            first += rows


def read_dataset_rows(
    directory: str, columns: Collection[str], clip_columns: Collection[str]
) -> Iterator[tuple[Position, object]]:
    """The rows of a dataset on disk as `read_parquet_rows` gives them, counted over all shards.

    A damaged shard raises `DataError`.
    """
    import pyarrow

    before = 0
    for shard in shards(directory):
        reader = _open(shard)
        clips, plain = _split(shard, reader.schema, columns, clip_columns)
        first = 0
        try:
            for batch in _batches(reader):
                batch.validate(full=True)  # Arrow trusts what it maps: a wrong offset would end the process
                yield from _rows(_block(batch, shard, first, plain, clips), before + first)
                first += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{shard} is damaged after {first} rows ({error}); copy or save it again") from error
        before += first


def _opened(path: str) -> Any:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
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


def _split(
    path: str, schema: Any, columns: Collection[str], clip_columns: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The columns of clips with their types, and the names of the others that are read.

    A clip is bytes, or a struct with `bytes` or `path` as `datasets` has it.
    """
    from pyarrow import types

    clips: dict[str, Any] = {}
    plain: list[str] = []
    for field in schema:
        name = field.name
        if name not in columns:
            if _is_plain(field.type) and schema.names.count(name) == 1 and "." not in name:
                plain.append(name)
            continue
        if name in clips or name in plain:
            raise DataError(f"{path} has the column {name} twice; drop or rename one")
        fields = _fields(field.type)
        if name in clip_columns:
            inside = field.type.field(fields.index("bytes")).type if "bytes" in fields else None
            _refuse_other_bytes(path, name if inside is None else f"{name}.bytes", inside or field.type)
        if {"bytes", "path"}.intersection(fields) or (holds_bytes(field.type) and not types.is_null(field.type)):
            clips[name] = field.type
        elif "array" not in fields:  # a clip that is decoded already is no clip of ours
            plain.append(name)
    return clips, plain


def _is_plain(kind: Any) -> bool:
    """Whether values are text, lists of it, numbers, or true or false. A list of numbers may be a waveform."""
    from pyarrow import types

    text = (types.is_string, types.is_large_string)
    if types.is_list(kind) or types.is_large_list(kind):
        return any(test(kind.value_type) for test in text)
    return any(test(kind) for test in (*text, types.is_integer, types.is_floating, types.is_boolean))


def _refuse_other_bytes(path: str, name: str, kind: Any) -> None:
    """Raise `DataError` for bytes that are stored as something else: as numbers, or by their place in a dictionary."""
    from pyarrow import types

    numbers = (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) and (
        types.is_integer(kind.value_type)
    )
    by_place = types.is_dictionary(kind) and holds_bytes(kind.value_type)
    part = name.endswith(".bytes") and not holds_bytes(kind)
    if numbers or by_place or part:
        raise DataError(f"{path}: the column {name} is {kind}, not binary; cast it to binary and write the file again")


def _parquet_blocks(
    file: Any, path: str, group: int, first: int, plain: Sequence[str], clips: Mapping[str, Any]
) -> Iterator[_Block]:
    """The rows of a row group, a few at a time, with the bytes of clips only where nothing else tells of them."""
    from pyarrow import types

    told: dict[str, bool] = {}
    leaves = list(plain)
    for name, kind in clips.items():
        fields = _fields(kind)
        leaves += [f"{name}.path"] if "path" in fields else []
        if types.is_struct(kind) and "bytes" not in fields:
            told[name] = False
            continue
        leaf = f"{name}.bytes" if fields else name
        all_or_none = _all_or_none(file, group, leaf)
        if all_or_none is None:
            leaves.append(leaf)
        else:
            told[name] = all_or_none
    if not leaves:
        rows = file.metadata.row_group(group).num_rows
        yield _Block(path, first, rows, {}, dict.fromkeys(clips), {name: [told[name]] * rows for name in clips})
        return
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=leaves, use_threads=False):
        yield _block(batch, path, first, plain, clips, told)
        first += batch.num_rows


def _all_or_none(file: Any, group: int, leaf: str) -> bool | None:
    """Whether the bytes of every row are there, or of none; None where the group's statistics do not tell."""
    number = next(number for number in range(len(file.schema)) if file.schema.column(number).path == leaf)
    metadata = file.metadata.row_group(group)
    statistics = metadata.column(number).statistics
    if statistics is None or not statistics.has_null_count or statistics.null_count not in (0, metadata.num_rows):
        return None
    return bool(statistics.null_count == 0)


def _block(
    batch: Any,
    path: str,
    first: int,
    plain: Collection[str],
    clips: Mapping[str, Any],
    told: Mapping[str, bool] = MappingProxyType({}),
) -> _Block:
    """The rows of a batch.

    Args:
        batch: with the columns, or of a clip with those parts that are needed.
        path: of its file.
        first: number of its first row there.
        plain: columns of values.
        clips: columns of clips with their types.
        told: whether all bytes of a column are there, or none, where that is known without them.
    """
    names, stored = {}, {}
    for name, kind in clips.items():
        column = batch.column(name) if name in batch.schema.names else None
        parts = {} if column is None else dict(zip(_fields(column.type), column.flatten(), strict=True))
        names[name] = parts.get("path")
        if name in told:
            stored[name] = [told[name]] * batch.num_rows
        elif _fields(kind):
            stored[name] = parts["bytes"].is_valid().to_pylist() if "bytes" in parts else [False] * batch.num_rows
        else:
            stored[name] = batch.column(name).is_valid().to_pylist()
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
    name = (names[row].as_py() if names is not None else None) or ""
    return name if name and not stored else StoredClip(source, name)
