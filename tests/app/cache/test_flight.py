from __future__ import annotations

import asyncio

import pytest

from app.cache.entry import MAX_BODY_BYTES, Entry
from app.cache.flight import MAX_AHEAD_BYTES, Flight, Landing, Reader
from app.errors import ApiError
from app.upstream import sse
from tests.patience import PATIENCE_SECONDS

ENTRY = Entry(b"{}", "application/json", "m")


def flight(*, background: bool = False) -> Flight:
    made = Flight("k", "t", "leader", "", background=background)
    made.task = asyncio.ensure_future(asyncio.sleep(60))
    return made


def wanted(made: Flight) -> bool:
    return made.wanted


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_everybody_who_waits_gets_the_landing() -> None:
    made = flight()
    waiting = [asyncio.create_task(made.landing()) for _ in range(100)]
    await settle()
    landing = Landing("miss", ENTRY)
    made.land(landing)
    made.land(ApiError("internal_error", "too late"))
    assert await asyncio.gather(*waiting) == [landing] * 100
    assert made.task is not None
    made.task.cancel()


async def test_one_who_leaves_hurts_nobody_and_the_last_ends_the_flight() -> None:
    made = flight()
    first, second = (asyncio.create_task(made.landing()) for _ in range(2))
    await settle()
    assert made.task is not None
    first.cancel()
    await settle()
    assert wanted(made)
    assert not made.task.cancelled()
    second.cancel()
    await settle()
    assert not wanted(made)
    assert made.task.cancelled()
    assert second.cancelled()


async def test_a_background_flight_and_one_that_another_replica_hears_go_on_alone() -> None:
    for made in (flight(background=True), flight()):
        made.remote = not made.background
        waiter = asyncio.create_task(made.landing())
        await settle()
        waiter.cancel()
        await settle()
        assert made.task is not None
        assert wanted(made)
        assert not made.task.done()
        made.task.cancel()


async def test_a_leader_who_leaves_ends_its_own_work_only_when_nobody_else_wants_it() -> None:
    alone, joined = flight(), flight()
    for made in (alone, joined):
        made.led_by(made.task)
    waiter = asyncio.create_task(joined.landing())
    await settle()
    assert alone.abandoned()
    assert not joined.abandoned()
    waiter.cancel()
    await settle()
    assert joined.task is not None
    assert joined.task.cancelled()
    assert alone.task is not None
    alone.task.cancel()


async def test_a_refusal_is_everybodys() -> None:
    made = flight()
    made.land(ApiError("upstream_timeout", "too slow"))
    for _ in range(2):
        with pytest.raises(ApiError, match="too slow"):
            await made.landing()
    assert made.task is not None
    made.task.cancel()


async def stream_of(made: Flight, left: list[bool] | None = None) -> Reader:
    made.land(Landing("miss", None, []))
    await made.landing()
    return Reader(made, (lambda gone: left.append(gone)) if left is not None else lambda _: None)


async def test_a_late_reader_hears_the_stream_from_its_start_and_live() -> None:
    made = flight()
    early, late = await stream_of(made), await stream_of(made)
    made.relay.add(b"one ")
    assert await anext(early) == b"one "
    made.relay.add(sse.HEARTBEAT)
    made.relay.add(b"two")
    assert await anext(late) == b"one " + sse.HEARTBEAT + b"two"
    waiting = asyncio.create_task(anext(late))
    await settle()
    made.relay.add(b" three")
    assert await waiting == b" three"
    made.relay.end()
    with pytest.raises(StopAsyncIteration):
        await anext(late)
    assert made.relay.text() == b"one two three"
    await early.aclose()
    await late.aclose()


async def test_a_reader_that_closes_hurts_nobody_and_the_last_ends_the_stream() -> None:
    made = flight()
    left: list[bool] = []
    one, two = await stream_of(made, left), await stream_of(made, left)
    assert made.task is not None
    await one.aclose()
    await one.aclose()
    assert not made.task.cancelling()
    await two.aclose()
    assert made.task.cancelled()
    assert left == [True, True]


async def test_a_slow_reader_holds_back_upstream_and_no_other_reader() -> None:
    made = flight()
    fast, slow = await stream_of(made), await stream_of(made)
    piece = bytes(MAX_AHEAD_BYTES // 2)
    for _ in range(3):
        made.relay.add(piece)
        await anext(fast)
        await asyncio.wait_for(made.relay.room(), PATIENCE_SECONDS)
    assert slow.read == 0
    for _ in range(3):
        made.relay.add(piece)
    reading = asyncio.create_task(made.relay.room())
    await settle()
    assert not reading.done()
    await anext(slow)
    await asyncio.wait_for(reading, PATIENCE_SECONDS)
    await fast.aclose()
    await slow.aclose()


async def test_a_stream_too_long_to_share_lets_go_of_what_was_read() -> None:
    made = flight()
    reader = await stream_of(made)
    for _ in range(6):
        made.relay.add(bytes(MAX_BODY_BYTES // 4))
        await anext(reader)
        await made.relay.room()
    assert not made.relay.shareable
    assert sum(map(len, made.relay.pieces)) < MAX_BODY_BYTES
    await reader.aclose()
