"""``fertiray dashboard``: the dashboards on a page, with a Prometheus or without."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from fertiray import console, storage
from fertiray.cli_options import Json
from fertiray.console import Result, show
from fertiray.errors import InputError


def dashboard(
    folder: Annotated[
        str | None, typer.Argument(help="Run folder or checkpoint folder, local or s3://.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="Address of a Prometheus, http://HOST:9090.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the page here; else serve it.")] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How far to look back in Prometheus.")
    ] = 60.0,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to serve, on 127.0.0.1 only.")
    ] = 8266,
    grafana: Annotated[
        str | None, typer.Option(help="Write the dashboards as Grafana's JSON into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw the dashboards, or write them for Grafana."""
    values: dict[str, Any] = {}
    with console.stdout_kept_clean():
        if grafana is not None:
            from fertiray.dashboard.grafana import write

            values["dashboards"] = write(grafana)
        elif folder is None and prometheus is None:
            raise InputError("dashboard: name a run folder, --prometheus URL, or --grafana FOLDER")
        else:
            from fertiray.dashboard.page import render
            from fertiray.dashboard.server import serve

            page = render(folder, prometheus, minutes=minutes, live=out is None)
            if out is None:
                anew = partial(render, folder, prometheus, minutes=minutes, live=True)
                serve(anew, port, lambda where: console.notices.print(f"dashboards at {where}"))
            else:
                storage.write_bytes(out, page.encode())
                values["page"] = out
    show(Result(values), as_json=json)
