"""The HTTP interface at an address of this machine."""

from __future__ import annotations

import threading
import time

import uvicorn
from starlette.types import ASGIApp

from fertiray.errors import InputError
from fertiray.serving.address import Address


def server(app: ASGIApp, address: Address) -> uvicorn.Server:
    """A server that is ready to run; the audit log is its only record of requests."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=address.host,
            port=address.port,
            ssl_certfile=address.certificate or None,
            ssl_keyfile=address.key or None,
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=30,
        )
    )


class Listener:
    """Answers from a thread of this process, from now on until it is closed.

    Args:
        app: what answers.
        address: where.
        patience: seconds that whoever listens there now has to go.

    Raises:
        InputError: it stays taken, or nothing can listen there at all.
    """

    def __init__(self, app: ASGIApp, address: Address, patience: float = 0) -> None:
        give_up = time.monotonic() + patience
        while True:
            try:
                address.require_free()
                break
            except InputError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
        self._server = server(app, address)
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise InputError(f"{address.url}: nothing can listen there; the log says why")
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Takes nothing more in, and answers what it has taken in."""
        self._server.should_exit = True
        self._thread.join()
