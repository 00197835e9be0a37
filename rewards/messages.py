"""What goes between a reward's process (`rewards.worker`) and its owner (`rewards.process`), over a socket.

A message is a pickle behind its length in 8 bytes. First comes the term; the answer to it is `Loaded` or `Refused`.
Then come `Asked`, each answered, in any order, by its number and an `Outcome`; `Stalled` tells why some are not.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
from dataclasses import dataclass
from typing import Any

from data.types import Example
from rewards.registry import Source

LATE = signal.SIGUSR1
"""Sent to a process whose function is out of time. Not SIGALRM: math-verify has taken that, and its one timer."""

_SIZE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """The function is there."""

    is_async: bool
    source: Source


@dataclass(frozen=True, slots=True)
class Refused:
    """The function cannot be used."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A group to score."""

    number: int
    completions: tuple[str, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class Stalled:
    """A coroutine has held up the event loop, so that no other is heard of."""

    number: int
    """Of the group that it was to score."""


def packed(message: Any) -> bytes:
    """A message as it goes over the socket."""
    body = pickle.dumps(message)
    return len(body).to_bytes(_SIZE_BYTES, "big") + body


def read(connection: socket.socket) -> Any:
    """The next message; raises EOFError where there is none any more."""
    return pickle.loads(_exactly(connection, int.from_bytes(_exactly(connection, _SIZE_BYTES), "big")))


async def receive(reader: asyncio.StreamReader) -> Any:
    """`read` without blocking; raises IncompleteReadError, which is an EOFError."""
    size = int.from_bytes(await reader.readexactly(_SIZE_BYTES), "big")
    return pickle.loads(await reader.readexactly(size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
