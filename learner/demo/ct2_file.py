"""Reader of CTranslate2's `model.bin`: named variables, little-endian, nothing executed.

The layout, in order: format version (uint32), name of the specification (string), its revision (uint32), number of
variables (uint32); for each variable its name (string), rank (uint8), dimensions (uint32 each), type id (uint8),
size in bytes (uint32) and data; then the number of aliases (uint32) and two strings an alias. A string is a uint16
length that counts a closing NUL, and that many bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

READABLE_VERSION = 6
"""Format version since which variables carry a type id and a size in bytes in this order."""

ARRAY_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""numpy type of each type id; bfloat16 (5) has none and is refused."""


@dataclass(frozen=True, slots=True)
class Ct2File:
    """What a `model.bin` holds."""

    specification: str
    """Kind of model, for example `WhisperSpec`."""
    variables: dict[str, np.ndarray]


def read(path: Path) -> Ct2File:
    """Read every variable of the file at `path`; a `ValueError` names the file and what is wrong with it."""
    cursor = _Cursor(path)
    version = cursor.number("I")
    if version != READABLE_VERSION:
        raise ValueError(f"{path}: CTranslate2 format version {version}; this reader takes {READABLE_VERSION}")
    specification = cursor.string()
    cursor.number("I")  # revision of the specification
    variables = dict(cursor.variable() for _ in range(cursor.number("I")))
    for _ in range(cursor.number("I")):
        alias, target = cursor.string(), cursor.string()
        variables[alias] = variables[target]
    return Ct2File(specification, variables)


class _Cursor:
    """A position in the bytes of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = path.read_bytes()
        self.offset = 0

    def take(self, size_bytes: int) -> bytes:
        end = self.offset + size_bytes
        if end > len(self.content):
            raise ValueError(
                f"{self.path} ends at byte {len(self.content)} where {end} are needed: it is cut short or no "
                f"CTranslate2 model.bin; fetch it again"
            )
        taken = self.content[self.offset : end]
        self.offset = end
        return taken

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0])

    def string(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.string()
        shape = [self.number("I") for _ in range(self.number("B"))]
        type_id, size_bytes = self.number("B"), self.number("I")
        if type_id not in ARRAY_TYPES:
            raise ValueError(f"{self.path}: variable {name} has type id {type_id}; known are {sorted(ARRAY_TYPES)}")
        array = np.frombuffer(self.take(size_bytes), dtype=np.dtype(ARRAY_TYPES[type_id]).newbyteorder("<"))
        if array.size != prod(shape):
            raise ValueError(f"{self.path}: variable {name} has {array.size} values for the shape {shape}")
        return name, array.reshape(shape)
