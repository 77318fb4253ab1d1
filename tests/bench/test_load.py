"""Open-loop load: every answer counted in its kind, and latency from when a request was due."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fertiray.bench.load import Endpoint, alone, capacity, held, open_loop


@pytest.fixture
def endpoint():
    """Answers 200, refuses every fifth request properly and every seventh without a time."""
    count, lock = [0], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            with lock:
                count[0] += 1
                number = count[0]
            time.sleep(0.02)
            status = 429 if number % 5 == 0 else 503 if number % 7 == 0 else 200
            self.send_response(status)
            if status == 429:
                self.send_header("retry-after", "1")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Endpoint(f"http://127.0.0.1:{server.server_port}/", {"x": "y"}, b"body"), count
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_answer_is_of_one_kind(endpoint):
    target, count = endpoint
    found = open_loop(target, 40, 1.5, seed=3)
    assert found["requests"] == count[0] - 1  # one opens the connection
    assert found["requests"] == pytest.approx(60, abs=30)  # Poisson, mean 60
    assert found["requests"] == found["answered"] + found["refused"] + found["errors"]
    numbers = range(2, count[0] + 1)
    assert found["refused"] == sum(n % 5 == 0 for n in numbers)
    assert found["errors"] == sum(n % 7 == 0 and n % 5 != 0 for n in numbers)
    assert found["errors_by_kind"] == {"503": found["errors"]}
    assert 20 <= found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_nobody_there_is_an_error_and_no_latency():
    found = open_loop(Endpoint("http://127.0.0.1:9/", {}, b""), 20, 0.5)
    assert found["errors"] == found["requests"] > 0
    assert found["errors_by_kind"] == {"ClientConnectorError": found["errors"]}
    assert found["p99_ms"] is None
    with pytest.raises(RuntimeError, match="answered none"):
        capacity(Endpoint("http://127.0.0.1:9/", {}, b""), 0.2)


def test_capacity_counts_answers_and_nothing_else(endpoint):
    target, count = endpoint
    found = capacity(target, 0.5, together=2)
    answered = sum(n % 5 != 0 and n % 7 != 0 for n in range(1, count[0] + 1))
    assert answered / 5 < found <= answered / 0.5  # it takes half a second, more where all is slow
    assert found <= 100  # two that wait 20 ms each time


def test_alone_the_next_one_waits_for_the_one_before():
    begun = []

    def call():
        begun.append(time.perf_counter())
        time.sleep(0.05)

    took = alone(call, 40, 1, seed=3)  # 40 a second want 2 s of work a second
    assert len(took) == len(begun) == pytest.approx(40, abs=25)
    assert min(took) >= 50
    assert took[-1] > 50 * len(took) - 1000 - 1  # all but the last second of work had to wait


def test_the_load_that_is_held():
    points = [
        {"answered": 10, "requests": 10, "answered_per_s": 1.0, "p99_ms": 20.0},
        {"answered": 20, "requests": 20, "answered_per_s": 2.0, "p99_ms": 30.0},
        {"answered": 29, "requests": 30, "answered_per_s": 3.0, "p99_ms": 25.0},  # lost one
        {"answered": 40, "requests": 40, "answered_per_s": 4.0, "p99_ms": 90.0},
    ]
    assert held(points, 30.0) == 2.0
    assert held(points, 100.0) == 4.0
    assert held(points, 10.0) is None
