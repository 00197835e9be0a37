"""Write the dashboards' files from `deploy.dashboard.panels`: `python -m deploy.dashboard.files`; `--check` compares.

deploy/grafana/auricle.json            Grafana's dashboard
deploy/prometheus/consoles/panels.json what the page beside it, which Prometheus serves, draws
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.reference import write_files
from deploy.dashboard.panels import ROWS, Panel, Query, Row

DEPLOY = Path(__file__).resolve().parent.parent
GRAFANA = DEPLOY / "grafana" / "auricle.json"
CONSOLE = DEPLOY / "prometheus" / "consoles" / "panels.json"

COLUMNS, WIDTH, HEIGHT = 3, 8, 8
"""Of a row's panels, in Grafana's grid of 24 units."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
"""The Prometheus that the dashboard's own variable names."""


def grafana() -> dict[str, Any]:
    """The dashboard as Grafana provisions it, with variables for the data source and the runs."""
    return {
        "uid": "auricle",
        "title": "Auricle",
        "tags": ["auricle"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "5s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), _run_variable()]},
        "panels": list(_numbered(ROWS)),
    }


def console() -> list[dict[str, Any]]:
    """Rows and panels as the page reads them."""
    return [asdict(row) for row in ROWS]


def _numbered(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows and panels in Grafana's form, each with a number and a place."""
    top, number = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            "panels": [],
        }
        top += 1
        for place, panel in enumerate(row.panels):
            number += 1
            line, column = divmod(place, COLUMNS)
            at = {"x": column * WIDTH, "y": top + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield _graph(number, panel) | {"gridPos": at}
        top += -(-len(row.panels) // COLUMNS) * HEIGHT


def _graph(number: int, panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {"drawStyle": "line", "lineWidth": 2, "showPoints": "never", "fillOpacity": 0}
    if panel.stacked:
        custom |= {"fillOpacity": 30, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "expr": query.expression,
                "legendFormat": _legend(query),
                "datasource": SOURCE,
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _legend(query: Query) -> str:
    return " ".join([*(f"{{{{{label}}}}}" for label in query.labels), *([query.name] if query.name else [])])


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(auricle_step, run)", "refId": "run"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def rendered() -> dict[Path, str]:
    """The text of each file."""
    return {path: json.dumps(value, indent=1) + "\n" for path, value in ((GRAFANA, grafana()), (CONSOLE, console()))}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return write_files("deploy.dashboard.files", __doc__, rendered(), argv)


if __name__ == "__main__":
    sys.exit(main())
