"""When the client comes back, and that it gives up."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fertiray import client
from fertiray.client import Client
from fertiray.errors import InputError


@pytest.fixture
def refusing():
    """A service that answers with the (status, Retry-After) given, one after the other."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, after = answers.pop(0)
            body = b'{"models": []}' if status == 200 else b'{"detail": "busy"}'
            self.send_response(status)
            if after is not None:
                self.send_header("retry-after", after)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """What the client would have slept, in seconds, without the random part."""
    slept = []
    monkeypatch.setattr(client.time, "sleep", slept.append)
    monkeypatch.setattr(client.random, "uniform", lambda low, high: low)
    return slept


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (None, 0.5),  # its own first pause
        ("3", 3),
        ("2.5", 2.5),
        ("0", 0.5),
        ("-7", 0.5),
        ("86400", 60),  # never longer than a minute
        ("inf", 60),
        ("nan", 60),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5),  # a proxy may name a date
        ("soon", 0.5),
    ],
)
def test_it_waits_as_long_as_it_is_told(refusing, pauses, after, seconds):
    url, answers = refusing
    answers += [(503, after), (200, None)]
    Client(url, "token").models()
    assert pauses == [seconds]


def test_it_waits_longer_each_time_and_gives_up(refusing, pauses):
    url, answers = refusing
    answers += [(429, None)] * client.TRIES
    with pytest.raises(InputError, match="429: busy"):
        Client(url, "token").models()
    assert pauses == [min(30, 0.5 * 2**k) for k in range(client.TRIES - 1)]
    assert not answers


def test_another_refusal_is_final(refusing, pauses):
    url, answers = refusing
    answers += [(401, "1")]
    with pytest.raises(InputError, match="401"):
        Client(url, "token").models()
    assert pauses == []
