"""Connections to OpenAI: when one is made, checked, lent, used again and closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from aiohappyeyeballs import AddrInfoType

from app.upstream import http_client
from app.upstream import pool as upstream
from app.upstream.pool import Upstream
from app.upstream.response import UnreachableError
from tests.app.conftest import free_port
from tests.app.upstream.scripted import CHUNKED, KEY, Server, ask, read, whole
from tests.app.valkey.test_shared_lane import certificate
from tests.patience import PATIENCE_SECONDS

__all__ = ["certificate"]  # a fixture

pytestmark = pytest.mark.process


async def test_a_connection_is_used_again_after_a_whole_answer_and_not_beside_one() -> None:
    server = Server(*[whole(b"x")] * 3, CHUNKED + b"1\r\ny\r\n0\r\n\r\n", whole(b"z"))
    async with server.pool() as pool:
        for _ in range(3):
            assert await ask(pool) == b"x"
        assert server.connections == 1
        one = await pool.post("/responses", b"{}", KEY)
        two = await pool.post("/responses", b"{}", KEY)
        assert [await read(one), await read(two)] == [b"y", b"z"]
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"x", b"Connection: close"),
        whole(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
        whole(b"x") + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny",
        whole(b"x") + b"rubbish",
    ],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(answer: bytes) -> None:
    server = Server(answer, answer)
    async with server.pool() as pool:
        assert [await ask(pool), await ask(pool)] == [b"x", b"x"]
        assert server.connections == 2


async def test_a_connection_that_speaks_unasked_is_closed() -> None:
    server = Server([whole(b"x"), whole(b"unasked")], whole(b"z"))
    async with server.pool() as pool:
        assert await ask(pool) == b"x"
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
        assert await ask(pool) == b"z"
        assert server.connections == 2


async def test_an_answer_that_nobody_reads_to_its_end_costs_its_connection() -> None:
    server = Server([CHUNKED, b"1\r\nx\r\n"], whole(b"y"))
    async with server.pool(connections=1) as pool:
        response = await pool.post("/responses", b"{}", KEY)
        assert await response.read() == b"x"
        response.release()
        response.close()  # twice is once
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
        assert await ask(pool) == b"y"


async def test_a_connection_closed_while_it_was_free_carries_no_call() -> None:
    server = Server(whole(b"x"), whole(b"y"), close=True)
    async with server.pool() as pool:
        assert await ask(pool) == b"x"
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
        await asyncio.sleep(0.05)  # its end arrives
        assert await ask(pool) == b"y"
        assert len(server.heads) == 2


async def test_nobody_there_is_told_with_the_systems_number() -> None:
    async with Upstream(f"http://127.0.0.1:{free_port()}/v1", connections=1, tcp_keep_alive_seconds=45) as pool:
        for _ in range(2):  # the place in the pool comes back
            with pytest.raises(UnreachableError) as caught:
                await pool.post("/responses", b"{}", KEY)
            assert caught.value.errno
    async with Upstream("http://nobody.invalid/v1", connections=1, tcp_keep_alive_seconds=45) as pool:
        with pytest.raises(UnreachableError):
            await asyncio.wait_for(pool.post("/responses", b"{}", KEY), PATIENCE_SECONDS)


def resolved_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """The pool's name has these addresses."""

    def found(_host: str, port: int, *_: object, **__: object) -> list[AddrInfoType]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "127.0.0.1"]], ids=["one", "several"])
async def test_a_connect_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    resolved_to(monkeypatch, *hosts)
    monkeypatch.setattr(upstream, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as others:
        for _ in range(4):  # nobody accepts them, and more are not answered
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        address = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        async with Upstream(address, connections=1, tcp_keep_alive_seconds=45) as pool:
            for _ in range(2):  # the place in the pool comes back
                with pytest.raises(UnreachableError, match="took no connection"):
                    await pool.post("/responses", b"{}", KEY)
            assert not pool._made


async def test_of_several_addresses_one_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved_to(monkeypatch, "127.0.0.2", "127.0.0.1")  # nothing listens at the first
    async with Server(whole(b"x")).pool() as pool:
        response = await pool.post("/responses", b"{}", KEY)
        connection = response._connection
        assert isinstance(connection, http_client.Connection)
        assert connection._transport is not None
        made = connection._transport.get_extra_info("socket")
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert await read(response) == b"x"


async def test_a_full_pool_lends_its_connections_in_turn() -> None:
    server = Server(*[whole(b"x")] * 40)
    async with server.pool(connections=2) as pool:
        assert await asyncio.gather(*(ask(pool) for _ in range(40))) == [b"x"] * 40
        assert server.connections == 2


async def test_a_caller_who_leaves_the_queue_takes_nobodys_turn() -> None:
    server = Server([CHUNKED, b"1\r\nx\r\n", b"0\r\n\r\n"], whole(b"y"))
    async with server.pool(connections=1) as pool:
        first = await pool.post("/responses", b"{}", KEY)
        waiting = [asyncio.create_task(ask(pool)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await read(first) == b"x"  # it is the first one's turn, who goes at the same moment
        waiting[0].cancel()
        assert await asyncio.wait_for(waiting[1], PATIENCE_SECONDS) == b"y"


async def test_a_call_that_is_given_up_closes_its_connection() -> None:
    server = Server()
    async with server.pool(connections=1) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.post("/responses", b"{}", KEY), 0.05)
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)


async def test_a_connection_nobody_uses_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.05)
    server = Server(whole(b"x"), whole(b"y"))
    async with server.pool() as pool:
        assert await ask(pool) == b"x"
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
        assert await ask(pool) == b"y"
        assert server.connections == 2


async def test_certificates_are_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with Server(whole(b"x")).pool(tls=tls) as pool:
        with pytest.raises(UnreachableError):
            await pool.post("/responses", b"{}", KEY)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    async with Server(whole(b"x"), whole(b"y")).pool(tls=tls) as pool:
        assert [await ask(pool), await ask(pool)] == [b"x", b"y"]
    async with Server(whole(b"x")).pool(tls=tls, host="localhost") as pool:
        with pytest.raises(UnreachableError):
            await pool.post("/responses", b"{}", KEY)


@pytest.mark.parametrize("address", ["ftp://api.openai.com/v1", "api.openai.com", "http:///v1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="give http"):
        Upstream(address, connections=1, tcp_keep_alive_seconds=45)


async def test_key_and_body_are_in_no_error() -> None:
    async with Upstream(f"http://127.0.0.1:{free_port()}/v1", connections=1, tcp_keep_alive_seconds=45) as pool:
        with pytest.raises(UnreachableError) as caught:
            await pool.post("/responses", b"prompt", KEY)
    assert KEY not in repr(caught.value)
    assert KEY not in repr(vars(pool))
