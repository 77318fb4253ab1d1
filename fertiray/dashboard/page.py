"""The dashboards as one page without scripts, from a Prometheus or from a folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jinja2

from fertiray.dashboard import drawings
from fertiray.dashboard.drawings import Drawing
from fertiray.dashboard.folder import Folder
from fertiray.dashboard.grafana import DASHBOARDS
from fertiray.dashboard.panels import Panel
from fertiray.dashboard.prometheus import Prometheus, Window
from fertiray.errors import InputError

REFRESH_S = 15


def render(
    folder: str | None = None,
    prometheus: str | None = None,
    *,
    minutes: float = 60.0,
    live: bool = False,
) -> str:
    """The page's HTML.

    Args:
        folder: a run folder or a checkpoint folder.
        prometheus: address of a Prometheus, instead.
        minutes: that are shown of what Prometheus has.
        live: the page loads itself anew every few seconds.

    Raises:
        InputError: not one of the two, or nothing there to draw.
    """
    if (folder is None) == (prometheus is None):
        raise InputError("dashboard: name a run folder, or --prometheus URL, and not both")
    alerts: list[str] = []
    if prometheus is not None:
        source, window = Prometheus(prometheus), Window.last(minutes)
        alerts = source.firing()
        drawn = {
            panel.id: source.draw(panel, window) for board in DASHBOARDS for panel in board.panels
        }
    else:
        assert folder is not None
        held = Folder(folder)
        drawn = {panel.id: held.draw(panel.id) for board in DASHBOARDS for panel in board.panels}
    boards = [
        {
            "id": board.id,
            "title": board.title.partition(": ")[2],
            "panels": [_shown(panel, drawn[panel.id]) for panel in board.panels],
        }
        for board in DASHBOARDS
    ]
    template = _environment().get_template("dashboard.html.j2")
    return template.render(
        boards=boards,
        source=prometheus or folder,
        span=f"the last {minutes:g} minutes" if prometheus else None,
        alerts=alerts,
        refresh=REFRESH_S if live else None,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M:%S UTC"),
        frame=drawings,
    )


def _shown(panel: Panel, drawing: Drawing | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"panel": panel, "drawing": drawing}
    if drawing is None:
        return shown
    if drawing.lines:
        shown["chart"] = drawings.chart(drawing, panel.unit)
    highest = max((value for _, value in drawing.bars), default=0.0) or 1.0
    shown["bars"] = [
        (name, drawings.text(value, panel.unit), round(100 * value / highest, 1))
        for name, value in drawing.bars
    ]
    if drawing.number is not None:
        shown["number"] = drawings.text(drawing.number, panel.unit)
    return shown


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fertiray", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
