"""`/metrics` of one process of a run, as Prometheus scrapes it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from configs.schema import Metrics

Named = Mapping[str, tuple[str, str]]
"""Key of a value: name and help of its metric."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a process serves its metrics."""

    host: str
    """As who scrapes it reaches it."""
    port: int
    machine: str
    """Name of the process's machine: a loopback address is reached from that one alone."""

    @property
    def address(self) -> str:
        """Host and port in one."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether no other machine reaches it."""
        address = _address(self.host)
        return address is not None and address.is_loopback


class Live(Collector):
    """Gauges and counters whose values are asked for at every scrape; those that are not told are absent.

    Args:
        gauges: metrics by the keys of their values.
        counters: the same; Prometheus sees each name with `_total`.
        read: gives the values; called from the thread of a scrape.
        labels: of every metric.
    """

    def __init__(
        self,
        gauges: Named,
        counters: Named,
        read: Callable[[], Mapping[str, float]],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._kinds = ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters))
        self._read = read
        self._labels = labels or {}

    def collect(self) -> Iterator[Metric]:
        """What is told now."""
        values = self._read()
        for kind, named in self._kinds:
            for key, (name, text) in named.items():
                if key in values:
                    family = kind(name, text, labels=list(self._labels))
                    family.add_metric(list(self._labels.values()), values[key])
                    yield family


def serve_actor(settings: Metrics, registry: CollectorRegistry, node: str) -> Endpoint | None:
    """Serve an actor's metrics on a free port for as long as its process lives; None where the run serves none.

    It listens on `metrics.host` where that is an address of the actor's machine too, as loopback is, and on its node's
    where it is not.

    Args:
        settings: of the run.
        registry: what is shown.
        node: address of the actor's Ray node.
    """
    if settings.port is None:
        return None
    host = settings.host if own(settings.host) else node
    server, _ = start_http_server(0, addr=host, registry=registry)
    return Endpoint(reached_by(host, node), int(server.server_port), socket.gethostname())


def own(host: str) -> bool:
    """Whether it is an address of this machine."""
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False


def reached_by(host: str, node: str) -> str:
    """The address by which others reach what listens on `host`: the node's own where that is any of the machine's."""
    address, of_node = _address(host), _address(node)
    if address is None or not address.is_unspecified:
        return host
    return outward() if of_node is not None and of_node.is_loopback else node


def outward() -> str:
    """The address of this machine that a packet to elsewhere would carry; loopback where there is no way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # kept for documentation; nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(asked.getsockname()[0])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host as an IP address; None where it is a name."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None
