"""The load generator: plain sockets and epoll in one thread, so that it costs little beside what it measures.

Closed: each connection asks again as soon as it is answered, which finds the rate. Open: requests go out at moments
fixed beforehand, and latency counts from the moment that was due, so that a slow server cannot hide by slowing the
generator.
"""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks._http import AnswerReader

HOST = "127.0.0.1"
RECEIVE_BYTES = 1 << 18
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""How long after the last request a phase waits; what is unanswered then has failed."""
WAVE_SECONDS = 30.0
"""How long a wave of streams may take."""
MOST_FAILURES = 1_000
"""A closed phase ends early after this many: nothing is learnt from asking a broken server as fast as it refuses."""

Requests = Callable[[], bytes]
"""Gives the next request to send."""


@dataclass
class Outcome:
    """What one phase of load came to."""

    latencies: list[float] = field(default_factory=list)
    """Seconds, of the requests that were answered as they should."""
    first_bytes: list[float] = field(default_factory=list)
    """Seconds to the first byte of the body; streams only."""
    failures: int = 0
    """Refused, cut, wrong or unanswered, and in an open phase also what could not be sent in time."""
    seconds: float = 0.0

    @property
    def completed(self) -> int:
        """Requests answered as they should."""
        return len(self.latencies)


class _Connection:
    """One keep-alive connection and the answer it waits for."""

    __slots__ = ("due", "first", "reader", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port), CONNECT_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.reader: AnswerReader | None = None
        self.due = 0.0
        self.first = 0.0


class _Pool:
    """The connections of one phase, watched together."""

    def __init__(self, port: int, count: int, outcome: Outcome, *, streams: bool) -> None:
        self.outcome = outcome
        self.waiting = 0
        """How many wait for an answer."""
        self._port = port
        self._streams = streams
        self._epoll = select.epoll()
        self._number: dict[int, int] = {}
        self._open = [_Connection(port) for _ in range(count)]
        for number in self.numbers:
            self._watch(number)

    @property
    def numbers(self) -> list[int]:
        """Every connection, by its number."""
        return list(range(len(self._open)))

    def ask(self, number: int, request: bytes, due: float) -> None:
        """Send a request; its latency counts from `due`. A connection that was closed meanwhile is made anew."""
        connection = self._open[number]
        try:
            connection.sock.send(request)  # a few hundred bytes always fit an idle socket
        except OSError:
            connection = self._renew(number)
            connection.sock.send(request)
        connection.reader = AnswerReader()
        connection.due = due
        connection.first = 0.0
        self.waiting += 1

    def ready(self, until: float) -> list[int]:
        """Wait no longer than `until`: the connections whose answer ended, well or not."""
        # epoll waits in whole milliseconds, select in microseconds: it watches the epoll for us.
        wait = until - time.perf_counter()
        if wait > 0:
            select.select([self._epoll], [], [], wait)
        return [number for found, _ in self._epoll.poll(0) if self._read(number := self._number[found])]

    def close(self) -> None:
        """Close everything; what still waits has failed."""
        self.outcome.failures += self.waiting
        for connection in self._open:
            connection.sock.close()
        self._epoll.close()

    def _read(self, number: int) -> bool:
        """Take what has arrived; whether an answer ended by it."""
        connection = self._open[number]
        reader = connection.reader
        try:
            piece = connection.sock.recv(RECEIVE_BYTES)
            if not piece or reader is None:
                raise ConnectionError("closed by the server")
            whole = reader.feed(piece)
        except (OSError, ValueError):
            self._renew(number)
            if reader is None:
                return False
            self.waiting -= 1
            self.outcome.failures += 1
            return True
        if not connection.first and reader.body_bytes:
            connection.first = time.perf_counter() - connection.due
        if whole:
            self._note(connection, reader)
        return whole

    def _note(self, connection: _Connection, reader: AnswerReader) -> None:
        self.waiting -= 1
        connection.reader = None
        if reader.status != 200 or (self._streams and not reader.ended):
            self.outcome.failures += 1
            return
        self.outcome.latencies.append(time.perf_counter() - connection.due)
        self.outcome.first_bytes.append(connection.first)

    def _watch(self, number: int) -> None:
        descriptor = self._open[number].sock.fileno()
        self._number[descriptor] = number
        self._epoll.register(descriptor, select.EPOLLIN)

    def _renew(self, number: int) -> _Connection:
        """A fresh connection under the same number."""
        self._open[number].sock.close()  # which ends the watching too
        self._open[number] = fresh = _Connection(self._port)
        self._watch(number)
        return fresh


@contextlib.contextmanager
def _pool(port: int, count: int, *, streams: bool = False) -> Iterator[_Pool]:
    """Connections of one phase, with this process's garbage collector out of the way."""
    pool = _Pool(port, count, Outcome(), streams=streams)
    gc.disable()
    started = time.perf_counter()
    try:
        yield pool
    finally:
        pool.outcome.seconds = time.perf_counter() - started
        gc.enable()
        pool.close()


def closed(port: int, requests: Requests, *, connections: int, seconds: float) -> Outcome:
    """Ask on every connection again and again for so long, then wait for what is under way: its work counts too."""
    with _pool(port, connections) as pool:
        for number in pool.numbers:
            pool.ask(number, requests(), time.perf_counter())
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and pool.outcome.failures < MOST_FAILURES:
            for number in pool.ready(until):
                pool.ask(number, requests(), time.perf_counter())
        until = time.perf_counter() + ANSWER_SECONDS
        while pool.waiting and time.perf_counter() < until:
            pool.ready(until)
    return pool.outcome


@contextlib.contextmanager
def batches(port: int, requests: Requests, *, connections: int) -> Iterator[Callable[[int], int]]:
    """Asks so many requests on the same connections each time, and says how many were answered when none is left."""
    with _pool(port, connections) as pool:

        def ask(count: int) -> int:
            before, left = pool.outcome.completed, count
            until = time.perf_counter() + ANSWER_SECONDS
            for number in pool.numbers[:left]:
                left -= 1
                pool.ask(number, requests(), time.perf_counter())
            while pool.waiting and time.perf_counter() < until:
                for number in pool.ready(until):
                    if left:
                        left -= 1
                        pool.ask(number, requests(), time.perf_counter())
            return pool.outcome.completed - before

        yield ask


def scheduled(port: int, requests: Requests, *, offsets: Sequence[float], connections: int) -> Outcome:
    """Ask at each offset (seconds from the start). A request for which no connection is free is a failure."""
    with _pool(port, connections) as pool:
        free = pool.numbers
        start = time.perf_counter()
        for offset in offsets:
            due = start + offset
            while time.perf_counter() < due:
                free.extend(pool.ready(due))
            if not free:
                free.extend(pool.ready(due))  # a late generator must still read
            if free:
                pool.ask(free.pop(), requests(), due)
            else:
                pool.outcome.failures += 1
        until = time.perf_counter() + ANSWER_SECONDS
        while pool.waiting and time.perf_counter() < until:
            pool.ready(until)
    return pool.outcome


def streams(port: int, requests: Requests, *, count: int, waves: int) -> Outcome:
    """So many streams begun at once, `waves` times. One that does not say that it ended is a failure."""
    with _pool(port, count, streams=True) as pool:
        for _ in range(waves):
            for number in pool.numbers:
                pool.ask(number, requests(), time.perf_counter())
            until = time.perf_counter() + WAVE_SECONDS
            while pool.waiting and time.perf_counter() < until:
                pool.ready(until)
            if pool.waiting:
                break
    return pool.outcome
