"""Addresses for processes to meet at."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def free_address(host: str = LOOPBACK) -> str:
    """`tcp://host:port` with a port that is free on this machine's address `host` now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return f"tcp://{host}:{listener.getsockname()[1]}"


def host_and_port(address: str) -> tuple[str, int]:
    """Of `tcp://host:port`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)
