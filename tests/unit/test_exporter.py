"""`/metrics` of engines and learner ranks: where it listens, how it is reached, and what it shows."""

from __future__ import annotations

from urllib.request import Request, urlopen

import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from actors.exporter import Endpoint, Live, outward, reached_by, serve_actor
from actors.metrics import ENGINE_COUNTERS, ENGINE_GAUGES, RANK_GAUGES, RankMetrics
from cluster.metrics_reference import engine_rows, rank_rows
from configs.schema import Metrics

ELSEWHERE = "203.0.113.5"
"""An address that this machine does not have."""


def samples(registry: CollectorRegistry, settings: Metrics | None = None) -> dict[tuple[str, ...], float]:
    """Value of every metric by its name and labels' values, as Prometheus reads them over HTTP."""
    endpoint = serve_actor(settings or Metrics(port=0), registry, "127.0.0.1")
    with urlopen(f"http://{endpoint.address}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def test_a_run_without_metrics_has_actors_without_metrics() -> None:
    assert serve_actor(Metrics(), CollectorRegistry(), "127.0.0.1") is None


def test_an_actor_listens_on_a_free_port_whatever_the_control_loops_is() -> None:
    settings = Metrics(port=9464)
    first = serve_actor(settings, CollectorRegistry(), "127.0.0.1")
    second = serve_actor(settings, CollectorRegistry(), "127.0.0.1")
    assert len({first.port, second.port, 9464}) == 3
    assert first.host == "127.0.0.1"


def test_a_metric_keeps_its_name_whatever_format_prometheus_would_rather_have() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Requests", registry=registry).set(3)
    endpoint = serve_actor(Metrics(port=0), registry, "127.0.0.1")
    rather = {"Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"}
    with urlopen(Request(f"http://{endpoint.address}/metrics", headers=rather), timeout=10) as answer:
        assert "\nvllm:num_requests_running 3.0\n" in answer.read().decode()


def test_loopback_is_not_left_by_default() -> None:
    endpoint = serve_actor(Metrics(port=0), CollectorRegistry(), outward())
    assert endpoint.local
    listening = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == endpoint.port] == ["127.0.0.1"]


def test_where_the_machine_lacks_the_address_the_nodes_is_taken() -> None:
    endpoint = serve_actor(Metrics(port=0, host=ELSEWHERE), CollectorRegistry(), "127.0.0.1")
    assert endpoint.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "node", "reached"),
    [
        ("127.0.0.1", ELSEWHERE, "127.0.0.1"),
        ("0.0.0.0", ELSEWHERE, ELSEWHERE),
        ("0.0.0.0", "127.0.0.1", outward()),
        ("::", ELSEWHERE, ELSEWHERE),
        ("trainer.example", ELSEWHERE, "trainer.example"),
    ],
)
def test_an_endpoint_is_listed_by_the_address_that_others_reach(host: str, node: str, reached: str) -> None:
    assert reached_by(host, node) == reached


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert Endpoint("::1", 80, "here").address == "[::1]:80"
    assert Endpoint("::1", 80, "here").local
    assert not Endpoint("trainer.example", 80, "here").local


def test_an_engine_shows_what_the_page_lists() -> None:
    registry = CollectorRegistry()
    registry.register(
        Live(ENGINE_GAUGES, ENGINE_COUNTERS, lambda: dict.fromkeys((*ENGINE_GAUGES, *ENGINE_COUNTERS), 3))
    )
    assert {name for (name,) in samples(registry)} == {name for name, *_ in engine_rows()}


def test_a_rank_adds_up_its_steps_and_shows_what_the_page_lists() -> None:
    metrics = RankMetrics(lambda: dict.fromkeys(RANK_GAUGES, 7.0))
    metrics.stepped({"pack": 0.25, "forward": 1.0}, tokens=100)
    metrics.stepped({"pack": 0.25, "forward": 2.0}, tokens=50)
    found = samples(metrics.registry)
    assert found[("auricle_rank_steps_total",)] == 2
    assert found[("auricle_rank_packed_tokens_total",)] == 150
    assert found[("auricle_rank_phase_seconds_total", "forward")] == 3.0
    assert found[("auricle_rank_process_peak_bytes",)] == 7.0
    own = {name for name, *_ in found if name.startswith("auricle_")}
    assert own == {name for name, *_ in rank_rows()}
    assert ("process_resident_memory_bytes",) in found
