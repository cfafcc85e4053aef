"""Commands that share one connection, to a server that says whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator

import pytest

from app.valkey import lane
from app.valkey.lane import Lane, LaneFullError, open_lane

pytestmark = pytest.mark.process


class RawServer(asyncio.Protocol):
    """A server that says what it is told to, and keeps what it read, read by read."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self._transport: asyncio.Transport | None = None
        self.read: list[bytes] = []
        self.asked = asyncio.Event()
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why the connection to it was lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.read.append(data)
        self.asked.set()
        if self._answers and self._transport is not None:
            self._transport.write(self._answers.pop(0))

    @contextlib.asynccontextmanager
    async def lane(self, seconds: float = 5.0) -> AsyncIterator[Lane]:
        """A connection to it, of this process."""
        server = await asyncio.get_running_loop().create_server(lambda: self, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        opened = await open_lane(
            "127.0.0.1",
            port,
            seconds=seconds,
            on_lost=lambda _, error: self.lost.set_result(error),
            tls=None,
            login=None,
        )
        try:
            yield opened
        finally:
            opened.close()
            server.close()
            await server.wait_closed()
            if self._transport is not None:
                self._transport.abort()
                await asyncio.sleep(0)


async def test_the_commands_of_one_turn_leave_in_one_write_and_each_gets_its_own_answer() -> None:
    server = RawServer(b":1\r\n$-1\r\n", b"*2\r\n$1\r\na\r\n:3\r\n")
    async with server.lane() as shared:
        answers = [shared.send(("GET", name)) for name in ("a", b"b", 3)]
        assert await asyncio.gather(*answers[:2]) == [1, None]
        assert len(server.read) == 1
        shared.send(("GET", "d"))  # makes the server speak again
        assert await answers[2] == [b"a", 3]
        assert server.read[0] == b"".join(b"*2\r\n$3\r\nGET\r\n$1\r\n%s\r\n" % name for name in (b"a", b"b", b"3"))


class Wire(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


async def test_a_command_goes_ahead_on_an_idle_connection_and_waits_for_the_others_of_its_turn_on_a_busy_one() -> None:
    wire, shared = Wire(), Lane(5.0, lambda *_: None)
    shared.connection_made(wire)
    answers = [shared.send(("GET", name), ahead=True) for name in "abc"]
    assert len(wire.written) == 1, "the first leaves at once, those that come while it is under way do not"
    await asyncio.sleep(0)
    assert len(wire.written) == 2
    shared.data_received(b":1\r\n:2\r\n:3\r\n")
    assert await asyncio.gather(*answers) == [1, 2, 3]
    # Several left together; then one alone, so the next does not wait, and not for what nobody waits for either.
    for number, at_once in enumerate((False, True)):
        written = len(wire.written)
        answer = shared.send(("GET", "d"), ahead=True)
        assert (len(wire.written) > written) is at_once
        await asyncio.sleep(0)
        shared.data_received(b":%d\r\n" % number)
        assert await answer == number
    for name in ("one", "other"):
        shared.post(("SET", name, "1"), lambda *_: None)
    await asyncio.sleep(0)
    written = len(wire.written)
    answer = shared.send(("GET", "e"), ahead=True)
    assert len(wire.written) == written + 1
    shared.data_received(b"+OK\r\n+OK\r\n:9\r\n")
    assert await answer == 9
    shared.close()


async def test_the_answer_to_a_call_that_was_given_up_reaches_no_other() -> None:
    server = RawServer(b":1\r\n:2\r\n")
    async with server.lane() as shared:
        first, second = shared.send(("GET", "a")), shared.send(("GET", "b"))
        first.cancel()
        assert await second == 2


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":1\r\n:2\r\n:3\r\n", b"$9x\r\n"])
async def test_answers_that_make_no_sense_close_the_connection(nonsense: bytes) -> None:
    server = RawServer(nonsense)
    async with server.lane() as shared:
        answers = [shared.send(("GET", "a")), shared.send(("GET", "b"))]
        assert isinstance(await server.lost, ConnectionError)
        assert all(answer.done() for answer in answers)
        with pytest.raises(ConnectionError):
            shared.send(("GET", "c"))


async def test_a_late_answer_costs_the_connection_and_every_call_on_it() -> None:
    server = RawServer(b":1\r\n")
    async with server.lane(0.05) as shared:
        assert await shared.send(("GET", "in time")) == 1
        late = [shared.send(("GET", "late")) for _ in range(3)]
        await asyncio.wait(late)
        assert [type(answer.exception()) for answer in late] == [TimeoutError] * 3
        assert isinstance(await server.lost, TimeoutError)


async def test_answers_that_this_process_was_too_busy_to_read_are_not_late() -> None:
    server = RawServer(b":1\r\n")
    async with server.lane(0.05) as shared:
        answer = shared.send(("GET", "a"))
        await server.asked.wait()
        asyncio.get_running_loop().call_soon(subprocess.run, ["sleep", "0.2"])  # the loop stands still
        assert await answer == 1
        assert not server.lost.done()


async def test_what_may_wait_on_a_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer().lane() as shared:
        monkeypatch.setattr(lane, "MAX_WAITING", 2)
        shared.send(("GET", "a"))
        shared.send(("GET", "b"))
        with pytest.raises(LaneFullError):
            shared.send(("GET", "c"))
    async with RawServer().lane() as shared:
        monkeypatch.setattr(lane, "MAX_UNSENT_BYTES", 1_000)
        shared.send(("SET", "a", b"x" * 800))
        with pytest.raises(LaneFullError):
            shared.send(("SET", "b", b"x" * 200))
