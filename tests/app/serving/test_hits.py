"""What is answered inside the call that reads it is what the ASGI way answers, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.budgets.control import Control, Hold, Standing
from app.budgets.policy import Rung
from app.cache.answers import Answers
from app.cache.memory import Road
from app.cache.place import place_of
from app.ledger.entries import MAX_ENTRIES
from app.limits.queue import BACKGROUND, PRIORITY_HEADER
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import ENDPOINTS
from app.pipeline.messages import Call
from app.serving import protocol as protocols
from app.serving.protocol import Protocol
from app.serving.web import WebApp
from app.settings import Settings
from tests.app.conftest import CloudParts
from tests.app.replica import prodkit_key
from tests.app.serving.test_protocol import Wire
from tests.app.serving.test_web import started

pytestmark = pytest.mark.process

PATH = "/v1/responses"
OF_THIS_REQUEST = {"date", "age", "x-request-id", "traceparent"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Caller:
    """One connection to an application, of which every question is answered from the cache."""

    def __init__(self, app: WebApp, tenant: str, key: str, body: bytes) -> None:
        self.app, self.tenant, self.key, self.body = app, tenant, key, body
        self.config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"Sun, 22 Nov 2026 19:00:00 GMT")]

    def connect(self, *, at_once: bool = True) -> tuple[Protocol, Wire]:
        protocol, wire = Protocol(self.config, self.state, {}), Wire()
        protocol.connection_made(wire)
        if not at_once:
            protocol._paths = ()
        return protocol, wire

    def request(self, *more: str, key: str | None = None, body: bytes | None = None) -> bytes:
        body = self.body if body is None else body
        lines = [f"POST {PATH} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key if key is None else key}", *more]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    async def answers(self, request: bytes, *, at_once: bool = True) -> bytes:
        """The bytes of the answer, whichever way it goes."""
        protocol, wire = self.connect(at_once=at_once)
        protocol.data_received(request)
        async with asyncio.timeout(30):
            while not wire.writes or self.state.tasks:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        return b"".join(wire.writes)

    def at_once(self, request: bytes) -> bytes:
        """What is answered before anything else can run; empty when that is nothing."""
        protocol, wire = self.connect()
        protocol.data_received(request)
        return b"".join(wire.writes)


def read(answer: bytes) -> tuple[bytes, list[tuple[str, str]], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status, [(name, value) for name, _, value in (line.decode().partition(": ") for line in lines)], body


async def with_kept_answer(app: WebApp, cloud: CloudParts, *, fresh: float = 100, stream: bool = False) -> Caller:
    """A caller whose question has a kept answer, and was asked before in the very same bytes."""
    services = app.services()
    document = {"model": "fast", "input": secrets.token_hex(8)} | ({"stream": True} if stream else {})
    key = prodkit_key(cloud, f"t-{secrets.token_hex(4)}")
    identity = await services.keys.lookup(key)
    assert identity is not None
    plan = make_plan(ENDPOINTS[PATH], document, services.models.current)
    body = json.dumps(document).encode()
    place = place_of(Call(PATH, body, identity, "req_1"), plan)
    assert place is not None
    stamp = await services.cache.watch.stamp(place.fields)
    assert stamp is not None
    place.at(stamp)
    text = b"event: x\ndata: {}\n\n" if stream else b'{"kept": true}'
    entry = services.cache.made(place, text, plan.model.name)
    services.cache.hold(place, replace(entry, fresh_seconds=fresh))
    services.cache.memory.remember((identity.tenant, PATH, body, None), Road(plan.models, place, plan))
    return Caller(app, identity.tenant, key, body)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("event") == "request"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [(), (f"traceparent: {PARENT}", "X-Prodkit-Feature: search", "Accept: */*")])
async def test_both_ways_give_the_same_answer_line_metrics_and_count(
    settings: Settings, cloud: CloudParts, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], stream: bool
) -> None:
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud, stream=stream)
        book = app.services().ledger.book
        write_pages, book.page = book.page, lambda at: None  # type: ignore[method-assign]  # the counts are read below
        metrics, request = app.services().metrics, caller.request(*more)
        seen = []
        for at_once in (True, False):
            before = dict(metrics._counts)
            answer = caller.at_once(request) if at_once else await caller.answers(request, at_once=False)
            app.pipeline().afterwards.run()
            [line] = lines(capsys)
            observed = {name: sum(each.bins.values()) for name, each in metrics._seen.items()}
            metrics._seen.clear()
            counted = {name: value - before.get(name, 0) for name, value in metrics._counts.items()}
            seen.append((*read(answer), line, counted, observed))
        (status, headers, body, line, counts, bins), slow = seen
        assert (status, body) == (slow[0], slow[2])
        assert [name for name, _ in headers] == [name for name, _ in slow[1]]
        same = [[each for each in found if each[0] not in OF_THIS_REQUEST] for found in (headers, slow[1])]
        assert same[0] == same[1]
        assert (counts, bins) == slow[4:]
        assert list(line) == list(slow[3])
        varying = {"time", "request_id", "trace_id", "span_id", "latency_ms", "overhead_ms", "receive_ms"}
        assert {name: line[name] for name in set(line) - varying} == {
            name: slow[3][name] for name in set(line) - varying
        }
        assert line["request_id"] == dict(headers)["x-request-id"]
        assert (line.get("parent_span_id") == PARENT[36:52]) == bool(more)
        [kept] = book._counted(MAX_ENTRIES)
        book.page = write_pages  # type: ignore[method-assign]
        assert (kept.times, kept.feature) == (2, "search" if more else PATH)


def hold(caller: Caller) -> None:
    caller.app.services().control.current = Control(holds={"org": Hold("ada", "a test", "2026-11-22T19:00:00Z")})


def degrade(caller: Caller) -> None:
    tenant = f"tenant:{caller.tenant}"
    caller.app.services().control.current = Control(rungs={tenant: Standing(Rung.NOTIFY, time.time() + 60)})


async def test_what_becomes_of_others_budgets_holds_up_no_hit(settings: Settings, cloud: CloudParts) -> None:
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        others = Control(
            holds={"model:gpt-6.2-sol": Hold("ada", "a test", "2026-11-22T19:00:00Z")},
            rungs={"tenant:spends-much": Standing(Rung.REFUSED, time.time() + 60)},
        )
        app.services().control.current = others
        assert caller.at_once(caller.request())


def fill(caller: Caller) -> None:
    assert caller.app._gate is not None
    caller.app._gate._limit = 0


def forget_key(caller: Caller) -> None:
    caller.app.services().keys._known.clear()


def end_trust(caller: Caller) -> None:
    caller.app.services().cache.watch.epochs._trusted_until = float("-inf")


async def test_what_a_policy_forbids_or_must_ask_for_first_is_not_answered_at_once(
    settings: Settings, cloud: CloudParts
) -> None:
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        for change in (end_trust, forget_key, hold, degrade, fill):
            await app.services().keys.lookup(caller.key)
            app.services().cache.watch.epochs.renew(time.monotonic())
            assert caller.at_once(caller.request()), "else this test says nothing"
            change(caller)
            assert caller.at_once(caller.request()) == b"", change
            app.services().control.current = Control()


UNUSUAL = [
    "Cache-Control: no-cache",
    "Idempotency-Key: 1",
    f"{PRIORITY_HEADER}: {BACKGROUND}",
    "X-Prodkit-Deadline: 24h",
    "X-Prodkit-Cache-Tags: a",
    "Expect: 100-continue",
    "Connection: close",
    "traceparent: a\r\ntraceparent: b",
]


async def test_a_request_that_says_more_than_its_bytes_is_not_answered_at_once(
    settings: Settings, cloud: CloudParts
) -> None:
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        assert caller.at_once(caller.request("X-Other: 1")), "else this test says nothing"
        for more in UNUSUAL:
            assert caller.at_once(caller.request(more)) == b"", more
        assert caller.at_once(caller.request())


async def test_nobody_elses_answer_no_unknown_key_and_nothing_stale_is_answered_at_once(
    settings: Settings, cloud: CloudParts
) -> None:
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        other, stale = await with_kept_answer(app, cloud), await with_kept_answer(app, cloud, fresh=0)
        unknown = f"prodkit_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
        for key in (other.key, unknown, "sk-nothing", ""):
            assert caller.at_once(caller.request(key=key)) == b""
        assert caller.at_once(caller.request(body=caller.body + b" ")) == b""
        assert stale.at_once(stale.request()) == b""
        refused = await caller.answers(caller.request(key=unknown))
        assert refused.startswith(b"HTTP/1.1 401")


async def test_a_hit_whose_body_comes_later_says_how_long_it_waited_for_it(
    settings: Settings, cloud: CloudParts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HOLD_SECONDS", 30.0)
    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        request = caller.request()
        protocol, wire = caller.connect()
        protocol.data_received(request[:-5])
        await asyncio.sleep(0.02)
        assert not wire.writes
        protocol.data_received(request[-5:])
        assert len(wire.writes) == 1
        [line] = lines(capsys)
        assert line["latency_ms"] >= line["receive_ms"] >= 20


async def test_a_fault_on_the_way_is_answered_by_the_other_way(
    settings: Settings, cloud: CloudParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    async with started(settings) as app:
        caller = await with_kept_answer(app, cloud)
        with monkeypatch.context() as patched:
            patched.setattr(Answers, "short_way", broken)
            assert caller.at_once(caller.request()) == b""
        assert (await caller.answers(caller.request())).startswith(b"HTTP/1.1 200")
