"""The load generator against the stub, over real sockets."""

import itertools
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from benchmarks import load
from benchmarks._http import template
from benchmarks.world import ask

pytestmark = pytest.mark.process

MARK = b"#" * 16


def requests(body: bytes) -> Callable[[], bytes]:
    made = template("/v1/chat/completions", {}, body, MARK)
    serials = itertools.count()
    return lambda: made.request(next(serials))


WHOLE = requests(b'{"q":"%b"}' % MARK)
STREAM = requests(b'{"stream": true,"q":"%b"}' % MARK)


@pytest.fixture
def stub() -> Iterator[int]:
    """The port of a running stub."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        process.terminate()


def stats(port: int) -> dict[str, int]:
    found: dict[str, int] = json.loads(ask(port, "GET", "/stats"))
    return found


def test_the_stub_counts_every_request_that_the_generator_made(stub: int) -> None:
    outcome = load.closed(stub, WHOLE, connections=4, seconds=0.2)
    assert outcome.failures == 0
    assert outcome.completed == stats(stub)["requests"] > 0


def test_an_open_phase_makes_exactly_what_is_scheduled(stub: int) -> None:
    outcome = load.scheduled(stub, WHOLE, offsets=[0.0, 0.001, 0.001, 0.05], connections=4)
    assert (outcome.completed, outcome.failures) == (4, 0)
    assert stats(stub)["requests"] == 4


def test_what_finds_no_free_connection_is_a_failure_and_the_schedule_goes_on(stub: int) -> None:
    ask(stub, "POST", "/delay/400")
    outcome = load.scheduled(stub, WHOLE, offsets=[0.0, 0.001, 0.002, 0.003], connections=2)
    assert (outcome.completed, outcome.failures) == (2, 2)


def test_every_stream_is_read_to_its_end_mark(stub: int) -> None:
    outcome = load.streams(stub, STREAM, count=5, waves=2)
    assert (outcome.completed, outcome.failures) == (10, 0)
    assert stats(stub)["streams_ended"] == 10
    assert all(0 < first < whole for first, whole in zip(outcome.first_bytes, outcome.latencies, strict=True))


def test_an_answer_that_is_no_stream_is_a_failed_stream(stub: int) -> None:
    outcome = load.streams(stub, WHOLE, count=2, waves=1)
    assert (outcome.completed, outcome.failures) == (0, 2)


@pytest.fixture
def rude() -> Iterator[int]:
    """The port of a server that answers each first request and closes the connection without saying so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                connection, _ = server.accept()
                with connection:
                    if connection.recv(4096):
                        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = int(server.getsockname()[1])
        yield port
        ending.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


def test_a_broken_server_is_not_asked_for_ever(rude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MOST_FAILURES", 20)
    outcome = load.closed(rude, WHOLE, connections=1, seconds=60)
    assert outcome.completed == 0
    assert outcome.failures >= 20
