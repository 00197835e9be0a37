"""Addresses for processes to meet at."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def listen(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A socket that listens on this machine's address `host` alone, by default on any port that is free."""
    return socket.create_server((host, port))


def address_of(listener: socket.socket) -> str:
    """`tcp://host:port` of a socket."""
    host, port = listener.getsockname()[:2]
    return f"tcp://{host}:{port}"


def free_address(host: str = LOOPBACK) -> str:
    """`tcp://host:port` with a port that is free now; another process may take it until it is used."""
    with listen(host) as listener:
        return address_of(listener)


def host_and_port(address: str) -> tuple[str, int]:
    """Of `tcp://host:port`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)
