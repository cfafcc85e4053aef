"""A task takes what it has room for: the same image, two sizes, told by the metadata endpoint as ECS tells them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from app.services import Services
from app.settings import Settings
from local.metadata import Metadata
from tests.app.conftest import CloudParts
from tests.app.raw_upstream import Connection, raw_upstream
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key
from tests.app.replica import replica as replica_process
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

SIZES = {(128, 512): 50, (256, 512): 100}
"""CPU units and MiB of a task, and the requests it takes at once. Smaller than Fargate's, so that few fill them."""


@contextlib.asynccontextmanager
async def sized(environment: dict[str, str], size: tuple[int, int]) -> AsyncIterator[Replica]:
    """A replica in a task of a size. It starts in a thread: this loop serves what it asks meanwhile."""
    with contextlib.ExitStack() as stack:
        async with Metadata() as metadata:
            uri = metadata.add("web-1", "dev-web", *size)
            told = environment | {"ECS_CONTAINER_METADATA_URI_V4": uri}
            try:
                yield await asyncio.to_thread(stack.enter_context, replica_process(told))
            finally:
                await asyncio.to_thread(stack.close)


async def post(port: int, key: str, question: int) -> int:
    """The status of a call; waits as long as the model does."""
    body = json.dumps({"model": "fast", "input": f"question {question} {secrets.token_hex(4)}"}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize("size", SIZES)
async def test_a_replica_holds_as_many_calls_as_its_task_has_room_for_and_sheds_the_next(
    size: tuple[int, int], environment: dict[str, str], cloud: CloudParts
) -> None:
    room = SIZES[size]
    all_here = asyncio.Event()
    calls: list[Connection] = []

    async def hang(connection: Connection) -> None:
        calls.append(connection)
        if len(calls) == room:
            all_here.set()
        await connection.gone.wait()

    key = prodkit_key(cloud, "sizes", requests_per_minute=10_000, tokens_per_minute=10_000_000)
    async with raw_upstream(hang) as upstream:
        told = environment | {
            "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
            "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
        }
        async with sized(told, size) as process:
            held = [asyncio.create_task(post(process.port, key, number)) for number in range(room)]
            async with asyncio.timeout(PATIENCE_SECONDS):
                await all_here.wait()
                assert await post(process.port, key, room) == 503
            assert not any(call.done() for call in held)
            for call in held:
                call.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            assert said(process, "sized")["max_concurrent_requests"] == room


def said(process: Replica, message: str) -> dict[str, Any]:
    """The one log line with a message."""
    [line] = [line for line in map(json.loads, list(process.lines)) if line.get("message") == message]
    return dict(line)


async def test_pools_and_caches_grow_with_the_task(settings: Settings) -> None:
    found = {}
    async with Metadata() as metadata:
        for size in ((256, 512), (4096, 8192)):
            uri = metadata.add("web-1", "dev-web", *size)
            services = await Services.start(replace(settings, metadata_uri=uri))
            try:
                assert services.container.source == "metadata"
                found[size] = services.container
            finally:
                await services.stop()
    small, large = found.values()
    assert (small.upstream_connections, large.upstream_connections) == (116, 1616)
    assert (small.cache_connections, large.cache_connections) == (16, 200)
    assert (small.identity_entries, large.identity_entries) == (13_107, 209_715)
    assert (small.documents_at_once, large.documents_at_once) == (4, 64)
