"""An S3 that misbehaves: a proxy in front of a real one that spoils a share of the requests.

It passes every request on as it is (the path, the query, the signed Host header), except those that
it spoils. Which ones depends on the seed, the request and how often it was made before, not on the
order in which parallel requests arrive.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

DELAY_S = 0.5
HANG_S = 600.0
PASSING = ("500", "503", "slow", "cut")
"""The faults that are mixed: ``500`` InternalError and ``503`` SlowDown, neither carried out;
``slow``, late by :data:`DELAY_S`; ``cut``, carried out, but half of the body or, where there is
none, the whole answer is lost. Of :attr:`FaultyS3.always` there are also ``drop``, the connection
is closed without an answer and nothing is carried out; ``hang``, no answer comes; ``expired``,
403 ExpiredToken."""

_CODES = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
}
# Of one connection, so not passed on; a body that comes in chunks is passed on in one piece.
_OWN = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}


@dataclass(frozen=True)
class Request:
    """A request that came.

    Attributes:
        method: ``GET``, ``PUT``, ...
        path: with its query.
        part: the Range header, or empty.
        fault: how it was spoilt, or None.
    """

    method: str
    path: str
    part: str
    fault: str | None


class FaultyS3(ThreadingHTTPServer):
    """The proxy; a context manager that serves while it is entered.

    Args:
        target: URL of the S3 endpoint behind it.
        faults: share of the requests that are spoilt, in one of the ways of :data:`PASSING`.
        seed: decides which.

    Attributes:
        always: a fault that every request gets from now on, such as an outage; None for none.
        log: the requests so far, in order of arrival.
    """

    request_queue_size = 64

    def __init__(self, target: str, *, faults: float = 0.0, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.faults = faults
        self.seed = seed
        self.always: str | None = None
        self.log: list[Request] = []
        self.closing = threading.Event()
        self._made: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """URL for ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def faults_served(self) -> dict[str, int]:
        """How many requests were spoilt, by kind."""
        return dict(sorted(Counter(entry.fault for entry in self.log if entry.fault).items()))

    def retries(self) -> int:
        """How many of the requests that failed were made again."""
        failed: Counter[tuple[str, str, str]] = Counter()
        repeated = 0
        for entry in self.log:
            key = (entry.method, entry.path, entry.part)
            if failed[key]:
                failed[key] -= 1
                repeated += 1
            failed[key] += entry.fault not in (None, "slow")
        return repeated

    def fault_for(self, method: str, path: str, part: str) -> str | None:
        """Decides what becomes of a request, and logs it."""
        key = (method, path, part)
        with self._lock:
            self._made[key] += 1
            # The bucket does not count, as tests give each its own, nor an upload's drawn name.
            inside = re.sub("^/[^/?]*|uploadId=[^&]*", "", path)
            chance = random.Random(f"{self.seed} {method} {inside} {part} {self._made[key]}")
            drawn = chance.choice(PASSING) if chance.random() < self.faults else None
            fault = self.always or drawn
            self.log.append(Request(*key, fault))
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FaultyS3

    def do_any(self) -> None:
        body = self._body()
        fault = self.server.fault_for(self.command, self.path, self.headers.get("Range", ""))
        try:
            if fault in _CODES:
                self._refuse(*_CODES[fault])
            elif fault == "drop":
                self.close_connection = True
            elif fault == "hang":
                self.close_connection = True
                self.server.closing.wait(HANG_S)
            else:
                if fault == "slow":
                    time.sleep(DELAY_S)
                self._carry(body, cut=fault == "cut")
        except ConnectionError:  # the client gave up waiting
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _carry(self, body: bytes, *, cut: bool) -> None:
        connection = HTTPConnection(self.server.target, timeout=60)
        try:
            response = self._asked(connection, body)
            answer = response.read()
        finally:
            connection.close()
        if cut and not answer:
            self.close_connection = True
            return
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        if "content-length" not in response.headers and self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if cut:
            self.close_connection = True
            answer = answer[: len(answer) // 2]
        self.wfile.write(answer)

    def _asked(self, connection: HTTPConnection, body: bytes) -> HTTPResponse:
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OWN:
                connection.putheader(name, value)
        if body and "Content-Length" not in self.headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def log_message(self, *_: object) -> None:
        """Requests are in the log of the server."""
