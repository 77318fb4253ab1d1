"""The service in one process, without Ray: for a laptop, a demonstration or a test."""

from __future__ import annotations

from collections.abc import Callable

from fertiray.scoring.engine import choose_engines
from fertiray.scoring.shards import score_locally
from fertiray.serving.address import Address
from fertiray.serving.api import create_app
from fertiray.serving.bulk import Workers
from fertiray.serving.interactive import Networks
from fertiray.serving.listener import server
from fertiray.serving.settings import Settings, prepare, service_of, work_of


def run(settings: Settings, address: Address, ready: Callable[[], None]) -> None:
    """Serves until it is interrupted; requests and jobs share this process.

    Args:
        settings: of the service.
        address: where it listens.
        ready: called just before it does.
    """
    prepare(settings)
    app = create_app(service_of(settings, Networks(settings.device, settings.interactive_engine)))
    workers = Workers(work_of(settings, score_locally, choose_engines), settings.jobs_at_once)
    ready()
    try:
        server(app, address).run()
    finally:
        workers.stop()
