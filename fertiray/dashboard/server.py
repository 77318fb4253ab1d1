"""``fertiray dashboard``: the page on this machine's own address, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from fertiray.errors import InputError
from fertiray.textfile import FILE, FOLDER

LOOPBACK = "127.0.0.1"
OWN_NAMES = (LOOPBACK, "localhost")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def serve(render: Callable[[], str], port: int, ready: Callable[[str], None]) -> None:
    """Serves until it is interrupted: the page at ``/``, the file of metrics at ``/metrics``.

    Only requests that name this machine by its loopback address are answered, so a page of the web
    cannot have a browser read this one.

    Args:
        render: makes the page, anew for each request.
        port: to listen on; 0 for any.
        ready: called with the address.

    Raises:
        InputError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _handler(render))
    except OSError as error:
        raise InputError(f"--port {port}: cannot listen there ({error}); name another") from error
    with server:
        ready(f"http://{LOOPBACK}:{server.server_port}/")
        server.serve_forever()


def _handler(render: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = urlsplit(f"//{self.headers.get('host', '')}").hostname
            if host not in OWN_NAMES:
                self._answer(403, "text/plain", "this page is for this machine only")
            elif self.path == "/":
                try:
                    self._answer(200, "text/html; charset=utf-8", render())
                except InputError as error:
                    self._answer(503, "text/plain; charset=utf-8", str(error))
            elif self.path == "/metrics" and os.environ.get(FOLDER):
                file = Path(os.environ[FOLDER]) / FILE
                text = file.read_text() if file.exists() else ""
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", text)
            else:
                self._answer(404, "text/plain", "the page is at /")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-security-policy", POLICY)
            self.send_header("cache-control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing of each request."""

    return Handler
