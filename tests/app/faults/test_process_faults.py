"""A replica as a real process: stopped, killed, out of descriptors, without a reader of its log, and in a spike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from components import _task
from local.metadata import Metadata
from local.openai.server import Running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, wait_until
from tests.app.raw_upstream import OK_STREAM, Connection, raw_upstream
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

MIB = 1 << 20
STANDS_STILL_SECONDS = 5.0
"""Longer than a key is known, and than every lease at the cache server lasts."""
PLACES = 32
"""Of the smallest task."""
SHED_SECONDS = 0.005
SLOWED_SECONDS = 2.0
"""What ten times as many as there are places, at once, may add to an answer of those who get in: 0.1 is usual."""
GONE_SECONDS = 1.0
"""After its caller has left, the call to OpenAI is closed within this."""


@pytest.fixture
def task(cloud: CloudParts, valkey_port: int, simulator: Running) -> dict[str, str]:
    simulator.reset()
    return BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_BASE_URL": simulator.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "PRODKIT_READINESS_GRACE_SECONDS": "1",
        "PRODKIT_HEARTBEAT_SECONDS": "1",
        "AWS_ENDPOINT_URL": cloud.url,
    }


@pytest.fixture
def key(cloud: CloudParts) -> str:
    tenant = f"faults-{secrets.token_hex(4)}"
    return prodkit_key(cloud, tenant, requests_per_minute=100_000, tokens_per_minute=100_000_000)


@pytest.fixture
async def http(key: str) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, to: Replica, question: str, *, stream: bool = False, priority: str = "interactive"
) -> tuple[int, bytes]:
    """Status and body of one answer."""
    body = {"model": "fast", "input": question, "stream": stream}
    async with http.post(f"{to.base_url}/responses", json=body, headers={"x-prodkit-priority": priority}) as answer:
        return answer.status, await answer.read()


@contextlib.asynccontextmanager
async def small_replica(task: dict[str, str]) -> AsyncIterator[Replica]:
    """A replica on the smallest task."""
    async with Metadata() as metadata:
        small = metadata.add("web-1", "prodkit-web", 64, 1024)
        started = contextlib.ExitStack()
        running = replica(task | {"ECS_CONTAINER_METADATA_URI_V4": small})
        process = await asyncio.to_thread(started.enter_context, running)
    with started:
        yield process


async def test_an_order_to_stop_under_streaming_load_cuts_nothing(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    simulator.fault("slow_first_token", seconds=3, times=None)
    with replica(task) as process:
        streams = [asyncio.create_task(ask(http, process, f"Number {each}", stream=True)) for each in range(20)]
        await asyncio.to_thread(wait_until, lambda: len(simulator.requests(0)) == 20)
        process.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: process.status("/health/ready") == 503)
        assert (await ask(http, process, "Still taken while the balancer notices"))[0] == 200
        answers = await asyncio.gather(*streams)
        assert await asyncio.to_thread(process.process.wait, PATIENCE_SECONDS) == 0
    assert [status for status, _ in answers] == [200] * 20
    assert all(b"response.completed" in body for _, body in answers)


async def test_when_one_replica_is_killed_the_other_serves_its_keys(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    with replica(task) as first, replica(task) as second:
        simulator.fault("stall", after=9)
        lost = asyncio.create_task(ask(http, first, "Cut off", stream=True))
        await asyncio.to_thread(wait_until, lambda: bool(simulator.requests(0)))
        first.process.kill()
        with pytest.raises(aiohttp.ClientError):
            await lost
        assert (await ask(http, second, "Served"))[0] == 200
        assert simulator.requests()[0]["outcome"] == "disconnected", "OpenAI is told by the closed connection"


@contextlib.contextmanager
def open_files(limit: int) -> Iterator[None]:
    """Processes started inside the block may open so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_few_descriptors_mean_503_and_never_a_dead_replica(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    simulator.fault("delay", seconds=2, times=None)
    started = contextlib.ExitStack()
    with open_files(224):
        process = started.enter_context(replica(task))
    with started:
        answers = await asyncio.gather(*(ask(http, process, f"Number {each}") for each in range(90)))
        seen = Counter(status for status, _ in answers)
        assert set(seen) == {200, 503}
        assert seen[200] >= 32
        assert await asyncio.to_thread(process.status, "/health/live") == 200
        assert (await ask(http, process, "After"))[0] == 200


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="it is stopped by a signal")
async def test_a_replica_that_stands_still_is_found_dead_then_sheds_what_piled_up_and_loses_no_stream(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    async with small_replica(task) as process:
        simulator.fault("slow_first_token", seconds=1)
        stream = asyncio.create_task(ask(http, process, "Under way", stream=True))
        await asyncio.to_thread(wait_until, lambda: bool(simulator.requests(0)))
        simulator.fault("delay", seconds=1, times=None)
        # A process that does not run is what a blocked event loop is to everybody else.
        process.process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + STANDS_STILL_SECONDS
        piled_up = [asyncio.create_task(ask(http, process, f"Number {each}")) for each in range(120)]
        probe = [sys.executable, "-m", "app", "health"]
        environment = {**os.environ, "PRODKIT_PORT": str(process.port)}
        dead = await asyncio.create_subprocess_exec(*probe, env=environment, stderr=asyncio.subprocess.DEVNULL)
        assert await dead.wait() == 1
        assert _task.HEALTH_RETRIES * _task.HEALTH_INTERVAL_SECONDS > STANDS_STILL_SECONDS, "one probe restarts nothing"
        await asyncio.sleep(until - time.monotonic())
        process.process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*piled_up)
        assert {status for status, _ in answers} == {200, 503}
        assert {json.loads(body)["error"]["code"] for status, body in answers if status == 503} == {"overloaded"}
        status, body = await stream
        assert status == 200
        assert b"response.completed" in body
        alive = await asyncio.create_subprocess_exec(*probe, env=environment)
        assert await alive.wait() == 0
        assert (await ask(http, process, "After"))[0] == 200
        assert process.process.poll() is None


async def test_a_log_that_nobody_reads_any_more_stops_no_request(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    with replica(task) as process:
        assert process.process.stdout is not None
        # The other end of the pipe is gone, as when a log driver dies; a full one is dropped by the driver's own mode.
        reader = os.open(os.devnull, os.O_RDONLY)
        os.dup2(reader, process.process.stdout.fileno())
        os.close(reader)
        statuses = [(await ask(http, process, f"Number {each}"))[0] for each in range(5)]
        assert statuses == [200] * 5
        assert await asyncio.to_thread(process.status, "/health/live") == 200


async def test_a_spike_sheds_background_first_serves_what_it_admits_and_is_over_at_once(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession
) -> None:
    async with small_replica(task) as process:
        assert (await ask(http, process, "Before"))[0] == 200
        simulator.fault("delay", seconds=2, times=None)
        priorities = ["background", "interactive"] * 160
        answers = await asyncio.gather(
            *(ask(http, process, f"Number {number}", priority=priority) for number, priority in enumerate(priorities))
        )
        statuses = zip(priorities, (status for status, _ in answers), strict=True)
        served = Counter(priority for priority, status in statuses if status == 200)
        assert {json.loads(body)["error"]["code"] for status, body in answers if status != 200} == {"overloaded"}
        assert served["background"] <= PLACES // 2 <= served["interactive"]
        assert len(simulator.requests()) == 1 + served.total()
        lines = [line for line in process.request_lines() if line["status"] == 200]
        assert max(line["overhead_ms"] for line in lines) < 1_000 * SLOWED_SECONDS
        simulator.admin("DELETE", "/faults")
        after = await asyncio.gather(*(ask(http, process, f"After {each}") for each in range(10)))
        assert [status for status, _ in after] == [200] * 10


async def test_openai_is_left_within_a_second_of_the_caller(task: dict[str, str], http: aiohttp.ClientSession) -> None:
    begins = asyncio.Queue[Connection]()

    async def answer(connection: Connection) -> None:
        if b"in the middle" in connection.body:
            await connection.say(OK_STREAM + b'data: {"type":"response.output_text.delta","delta":"hi"}\n\n')
        begins.put_nowait(connection)
        await connection.gone.wait()

    async with raw_upstream(answer) as server:
        with replica(task | {"PRODKIT_OPENAI_BASE_URL": server.base_url}) as process:
            for stream, when in ((False, "before it"), (True, "before it"), (True, "in the middle")):
                body = {"model": "fast", "input": f"Leave {when}. {stream}", "stream": stream}
                asking = asyncio.create_task(http.post(f"{process.base_url}/responses", json=body))
                call = await asyncio.wait_for(begins.get(), PATIENCE_SECONDS)
                if when == "in the middle":
                    reply = await asking
                    await reply.content.readany()
                    left = time.monotonic()
                    reply.close()
                else:
                    left = time.monotonic()
                    asking.cancel()
                await asyncio.wait_for(call.gone.wait(), PATIENCE_SECONDS)
                assert time.monotonic() - left < 5 * GONE_SECONDS, "five times that, on a machine that is busy"


async def test_who_is_shed_is_told_within_five_milliseconds_before_its_body_and_who_leaves_makes_room(
    task: dict[str, str], simulator: Running, http: aiohttp.ClientSession, key: str
) -> None:
    simulator.fault("delay", seconds=PATIENCE_SECONDS, times=None)
    async with small_replica(task) as process:
        inside = [asyncio.create_task(ask(http, process, f"Number {each}")) for each in range(PLACES)]
        await asyncio.to_thread(wait_until, lambda: len(simulator.requests(0)) == PLACES)
        head = (
            f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9000000\r\n\r\n"
        )
        took = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            began = time.perf_counter()
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
            took.append(time.perf_counter() - began)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: " in answer
        assert statistics.median(took) < 5 * SHED_SECONDS, "five times that, on a machine that is busy"
        for call in inside:
            call.cancel()
        await asyncio.gather(*inside, return_exceptions=True)
        assert {call["outcome"] for call in await asyncio.to_thread(simulator.requests)} == {"disconnected"}
        simulator.admin("DELETE", "/faults")
        answers = await asyncio.gather(*(ask(http, process, f"After {each}") for each in range(PLACES)))
        assert [status for status, _ in answers] == [200] * PLACES


def resident_bytes(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_a_reader_who_stalls_holds_back_openai_and_no_memory_and_leaving_still_ends_the_call(
    task: dict[str, str], http: aiohttp.ClientSession
) -> None:
    said = 0
    stuck, gone = asyncio.Event(), asyncio.Event()
    event = b'data: {"type":"response.output_text.delta","sequence_number":1,"delta":"%s"}\n\n' % (b"x" * 8_000)

    async def endless(connection: Connection) -> None:
        nonlocal said
        await connection.say(OK_STREAM)
        with contextlib.suppress(TimeoutError):
            while said < 512 * MIB:
                await asyncio.wait_for(connection.say(event * 16), 2)
                said += len(event) * 16
            return
        stuck.set()
        await connection.gone.wait()
        gone.set()

    async with raw_upstream(endless) as server:
        with replica(task | {"PRODKIT_OPENAI_BASE_URL": server.base_url}) as process:
            before = resident_bytes(process.process.pid)
            body = {"model": "fast", "input": "hi", "stream": True}
            async with http.post(f"{process.base_url}/responses", json=body) as answer:
                assert answer.status == 200
                await asyncio.wait_for(stuck.wait(), PATIENCE_SECONDS)  # nothing of it is read
                assert said < 64 * MIB, "what the sockets of both sides hold, and no more"
                assert resident_bytes(process.process.pid) - before < 16 * MIB
                left = time.monotonic()
                answer.close()
            await asyncio.wait_for(gone.wait(), PATIENCE_SECONDS)
            assert time.monotonic() - left < 5 * GONE_SECONDS
