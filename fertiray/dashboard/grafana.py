"""The dashboards as Grafana's JSON; ``dashboards/`` holds what this writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fertiray.dashboard.operations import OPERATIONS
from fertiray.dashboard.panels import RANGE, Dashboard, Panel
from fertiray.dashboard.quality import QUALITY
from fertiray.dashboard.training import TRAINING

DASHBOARDS = (OPERATIONS, TRAINING, QUALITY)

SCHEMA_VERSION = 39  # of Grafana 11
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TYPES = {"lines": "timeseries", "bars": "bargauge", "number": "stat"}
_SIZES = {"lines": (8, 8), "bars": (8, 8), "number": (8, 4)}  # width of 24, height
_WIDTH = 24


def write(folder: str | Path) -> list[str]:
    """Writes every dashboard into a folder and returns the files."""
    files = []
    for dashboard in DASHBOARDS:
        file = Path(folder) / f"{dashboard.id}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(as_json(dashboard), indent=1) + "\n")
        files.append(str(file))
    return files


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """One dashboard, to import or to provision; asks for the data source by a variable."""
    panels: list[dict[str, Any]] = []
    x = y = row = 0
    for number, panel in enumerate(dashboard.panels, 1):
        width, height = _SIZES[panel.shape]
        if x + width > _WIDTH or (x and height != row):
            x, y = 0, y + row
        panels.append(_panel(panel, number, {"x": x, "y": y, "w": width, "h": height}))
        x, row = x + width, height
    return {
        "uid": f"fertiray-{dashboard.id}",
        "title": dashboard.title,
        "tags": ["fertiray"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                }
            ]
        },
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    buckets = any("_bucket" in query.expr and RANGE in query.expr for query in panel.queries)
    return {
        "id": number,
        "type": _TYPES[panel.shape],
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": panel.shape != "lines",
                "range": panel.shape == "lines",
                # Grafana turns cumulative buckets into counts.
                "format": "heatmap" if buckets else "time_series",
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.shape == "lines":
        return {"legend": {"displayMode": "list", "placement": "bottom"}}
    shown = {"calcs": ["lastNotNull"], "values": False}
    if panel.shape == "number":
        return {"reduceOptions": shown}
    return {"reduceOptions": shown, "displayMode": "basic", "orientation": "horizontal"}
