"""`/metrics` of one process of a run, as Prometheus scrapes it."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
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
    return endpoint(serve(registry, host, 0), host, node)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing of a scrape."""


def serve(registry: CollectorRegistry, host: str, port: int) -> WSGIServer:
    """Answer every scrape in Prometheus's plain format, from a thread, until `shutdown`; port 0 takes a free one.

    In OpenMetrics, which Prometheus would rather have, prometheus_client 0.26 writes `vllm_` for `vllm:`.
    """
    app = make_wsgi_app(registry)

    def plain(environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_ACCEPT", None)
        return app(environ, start_response)

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = make_server(host, port, plain, Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def endpoint(server: WSGIServer, host: str, node: str) -> Endpoint:
    """Where others reach what listens on `host` of this machine, whose Ray node has the address `node`."""
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
