"""The service in one process, without Ray: for a laptop, a demonstration or a test."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn

from fertiray.scoring.engine import choose_engines
from fertiray.scoring.shards import score_locally
from fertiray.serving.address import Address
from fertiray.serving.api import create_app
from fertiray.serving.bulk import Workers
from fertiray.serving.interactive import Networks
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
        uvicorn.run(
            app,
            host=address.host,
            port=address.port,
            ssl_certfile=address.certificate or None,
            ssl_keyfile=address.key or None,
            access_log=False,
            server_header=False,
            log_level="warning",
        )
    finally:
        workers.stop()
