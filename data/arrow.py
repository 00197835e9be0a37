"""Directories that `save_to_disk` of Hugging Face's `datasets` wrote: Arrow shards, named in order by `state.json`.

Shards are memory-mapped, so that a row is read without those around it; `datasets` itself is not needed.
"""

from __future__ import annotations

import json
import os
from typing import Any

from data.errors import DataError

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_FILE_MAGIC = b"ARROW1"
"""Of Arrow's file format; `datasets` writes its stream format, which has none."""


def shards(directory: str) -> list[str]:
    """Paths of the shards, in order; raises `DataError` for a directory that is no single dataset."""
    if os.path.exists(os.path.join(directory, _SPLITS)):
        splits = _read(directory, _SPLITS).get("splits")
        names = ", ".join(map(str, splits)) if isinstance(splits, list) else "none that can be read"
        raise DataError(f"{directory} holds the splits {names}; name the directory of one of them")
    if not os.path.exists(os.path.join(directory, _STATE)):
        raise DataError(
            f"{directory} is not a regular file, and no directory that save_to_disk of `datasets` wrote (it has no "
            f"{_STATE}); name a file of questions in data.train, data.validation or data.test"
        )
    state = _read(directory, _STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{directory} keeps its rows in another order than its shards; save flatten_indices() of it")
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(_file_name(file), str) for file in files):
        raise DataError(f"{directory}/{_STATE} does not list _data_files; save the dataset again")
    found = [os.path.join(directory, str(_file_name(file))) for file in files]
    missing = [path for path in found if not os.path.isfile(path)]
    if missing:
        raise DataError(f"{missing[0]} is missing, which {_STATE} names; copy the whole directory")
    return found


def open_shard(path: str) -> Any:
    """Record batches of a shard, as a reader of Arrow's stream or file format; raises pyarrow's errors."""
    import pyarrow

    mapped = pyarrow.memory_map(path)
    magic = mapped.read(len(_FILE_MAGIC))
    mapped.seek(0)
    return pyarrow.ipc.open_file(mapped) if magic == _FILE_MAGIC else pyarrow.ipc.open_stream(mapped)


def _file_name(file: object) -> object:
    return file.get("filename") if isinstance(file, dict) else None


def _read(directory: str, name: str) -> dict[str, Any]:
    path = os.path.join(directory, name)
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); save the dataset again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object; save the dataset again")
    return value
