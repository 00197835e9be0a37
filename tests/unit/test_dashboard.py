"""What the dashboards, the scrape configuration and the rules name: it is exported, and told where they say."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics_reference import PAGE, controller_rows, engine_rows, rank_rows
from cluster.targets import NAMED
from deploy.dashboard import __main__ as dashboard
from deploy.dashboard import files
from deploy.dashboard.__main__ import CONFIG, PROMETHEUS, DashboardError, configuration, program
from deploy.dashboard.panels import ROWS, Panel

OWN = re.compile(r"\bauricle[_:][\w:]+")
TARGET_LABELS = {"run", "role", "node", "instance", "job", *NAMED.values()}
"""What Prometheus puts on every metric of a process."""
PANELS = [panel for row in ROWS for panel in row.panels]


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file."""
    groups = yaml.safe_load((PROMETHEUS / f"{name}.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exported() -> dict[str, set[str]]:
    """Labels of every metric of ours, and of what is recorded of them."""
    rows = {
        name: set(labels.split(", ")) - {""}
        for name, _, labels, _, _ in [*controller_rows(), *engine_rows(), *rank_rows()]
    }
    return rows | {rule["record"]: set() for rule in rules("recording")}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_asks_for_metrics_and_labels_that_are_exported(panel: Panel) -> None:
    for query in panel.queries:
        names = OWN.findall(query.expression)
        assert set(names) <= exported().keys()
        for name in names:
            assert set(query.labels) <= exported()[name] | TARGET_LABELS


def test_panels_and_the_lines_of_a_panel_can_be_told_apart() -> None:
    titles = [panel.title for panel in PANELS]
    assert len(set(titles)) == len(titles) >= 30
    for panel in PANELS:
        assert len({(query.labels, query.name) for query in panel.queries}) == len(panel.queries)


def test_the_files_of_the_dashboards_are_up_to_date() -> None:
    assert files.main(["--check"]) == 0, "run `python -m deploy.dashboard.files`"


def test_the_check_of_the_files_fails_when_one_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "CONSOLE", tmp_path / "panels.json")
    assert files.main(["--check"]) == 1
    assert f"{tmp_path / 'panels.json'} is stale" in capsys.readouterr().err


def test_grafana_gets_every_panel_once_in_a_place_of_its_own() -> None:
    dashboard = json.loads(files.GRAFANA.read_text())
    graphs = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert [graph["title"] for graph in graphs] == [panel.title for panel in PANELS]
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_rule_asks_for_metrics_that_are_exported_and_what_is_recorded_is_asked_for() -> None:
    asked = {name for rule in [*rules("recording"), *rules("alerts")] for name in OWN.findall(rule["expr"])}
    assert asked <= exported().keys()
    shown = {name for panel in PANELS for query in panel.queries for name in OWN.findall(query.expression)}
    assert {rule["record"] for rule in rules("recording")} <= asked | shown


@pytest.mark.parametrize("rule", rules("alerts"), ids=lambda rule: rule["alert"])
def test_an_alert_tells_what_to_do_and_where_the_page_says_more(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert "$labels.run" in rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 80
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", PAGE.read_text(), re.MULTILINE)
    assert page == "docs/metrics.md"
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_prometheus_looks_where_runs_of_the_default_directory_list_their_targets() -> None:
    [auricle] = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    [pattern] = auricle["file_sd_configs"][0]["files"]
    assert Path(CONFIG.parent, pattern).resolve() == Path(__file__).parents[2] / "runs" / "*.targets.json"


def test_the_configuration_of_a_directory_of_runs_works_from_anywhere(tmp_path: Path) -> None:
    config = yaml.safe_load(configuration(tmp_path / "my runs"))
    [auricle] = config["scrape_configs"]
    assert auricle["file_sd_configs"][0]["files"] == [str(tmp_path / "my runs" / "*.targets.json")]
    assert all(Path(name).is_file() for name in config["rule_files"])


def test_a_port_that_another_prometheus_has_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert dashboard.main(["--runs", str(tmp_path), "--port", str(port)]) == 1
    assert f"something listens on port {port} already: --port takes another" in capsys.readouterr().err
    assert not (tmp_path / ".prometheus").exists()


def test_a_prometheus_that_is_not_installed_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(dashboard.VARIABLE, "/nowhere/prometheus")
    with pytest.raises(DashboardError, match="AURICLE_PROMETHEUS"):
        program()
    assert dashboard.main(["--runs", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "/nowhere/prometheus is no program here" in told
    assert "apt-get install prometheus" in told
