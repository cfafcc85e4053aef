"""Three replicas over one Valkey and one simulated OpenAI: what is asked at once is asked once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from app.cache import flight
from app.errors import ApiError
from app.limits import Grant
from app.limits.upstream import Ticket
from app.models import CachePolicy
from app.pipeline import ByteStream, Reply
from tests.app.cache.fleet import Fleet, state, text
from tests.app.conftest import wait_until
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


def asked(fleet: Fleet, calls: int) -> bool:
    """Whether OpenAI has been asked so often."""
    return len(fleet.upstream.requests(0)) == calls


@pytest.mark.parametrize("fleet", ["single", "cluster"], indirect=True)
async def test_one_question_over_three_replicas_is_one_call(fleet: Fleet) -> None:
    body = {"input": "What is asked by everybody?"}
    replies = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(90)])
    await fleet.settle()
    states = [state(reply) for reply in replies]
    assert len(fleet.upstream.requests()) == 1, set(states)
    assert len({reply.body for reply in replies if isinstance(reply.body, bytes)}) == 1
    assert states.count("miss") == 1
    assert set(states) == {"miss", "join"}
    again = [state(await fleet.ask(replica, body)) for replica in range(3)]
    assert again == ["hit"] * 3
    assert await fleet.booked() == {"ok": 1, "joined": 89, "cached": 3}


@pytest.mark.parametrize("fleet", ["single", "cluster"], indirect=True)
async def test_a_stream_is_heard_live_from_its_start_on_every_replica(fleet: Fleet) -> None:
    body = {"input": "Write 150 words", "max_output_tokens": 1_000, "reasoning": {"effort": "none"}, "stream": True}
    leader = await fleet.ask(0, body)
    first = await anext(aiter(leader.body))  # type: ignore[arg-type]
    joiners = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(12)])
    whole = first + await text(leader)
    texts = [await text(reply) for reply in joiners]
    assert [state(reply) for reply in joiners] == ["join"] * 12
    assert set(texts) == {whole}
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 1
    assert await fleet.booked() == {"ok": 1, "joined": 12}
    kept = await fleet.ask(2, body)
    assert (state(kept), kept.body) == ("hit", whole)
    assert dict(kept.headers)["content-type"].startswith("text/event-stream")


async def test_whoever_leaves_hurts_nobody(fleet: Fleet) -> None:
    for stream in (False, True):
        body = {"input": f"Who leaves? {stream}", "stream": stream}
        asking = [asyncio.create_task(fleet.ask(index % 3, body)) for index in range(9)]
        await asyncio.to_thread(wait_until, partial(asked, fleet, 1 + stream))
        asking[0].cancel()  # one of each replica, the leader's caller among them
        asking[4].cancel()
        asking[8].cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        replies = [reply for reply in done if isinstance(reply, Reply)]
        assert len(replies) == 6
        assert len({await text(reply) for reply in replies}) == 1
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2


async def test_when_all_have_left_the_call_ends_and_the_next_asks_anew(fleet: Fleet) -> None:
    body = {"input": "Is anybody there?"}
    asking = [asyncio.create_task(fleet.ask(0, body)) for _ in range(3)]
    await asyncio.to_thread(wait_until, partial(asked, fleet, 1))
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await fleet.settle()
    assert state(await fleet.ask(1, body)) == "miss"
    assert len(fleet.upstream.requests()) <= 2  # the first may have ended before it was sent


async def test_what_was_set_aside_for_an_answer_that_is_there_goes_back_whole(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, book = fleet.services[1].limiter, fleet.services[1].ledger.book
    taken_back: list[Grant] = []
    left: list[tuple[Ticket, int]] = []
    real, really = limiter.take_back, limiter.leave

    def take_back(grant: Grant) -> None:
        taken_back.append(grant)
        real(grant)

    def leave(ticket: Ticket, tokens: int) -> None:
        left.append((ticket, tokens))
        really(ticket, tokens)

    monkeypatch.setattr(limiter, "take_back", take_back)
    monkeypatch.setattr(limiter, "leave", leave)
    await fleet.ask(0, {"input": "Asked before."})
    for number in range(4):
        await fleet.ask(1, {"input": f"Asked here, so that this replica holds leases with room in them: {number}."})
    await fleet.settle()
    assert (taken_back, left, book.holds) == ([], [], {})
    [scope] = [scope for key, scope in limiter._scopes.items() if key.endswith(fleet.identity.key_id)]
    before = scope.remaining(limiter.clock())
    [openai] = limiter._upstreams.values()
    # Of the limit that it heard of with its first answer.
    await asyncio.to_thread(wait_until, lambda: openai.ready(limiter.clock(), 1_000, 0))
    unknown = openai._blind[:]
    rest = openai.remaining(limiter.clock())
    committed = [lease.committed for lease in book.current.values()]
    hit = await fleet.ask(1, {"input": "Asked before."})
    assert state(hit) == "hit"
    [grant] = taken_back
    [(ticket, tokens)] = left
    assert ticket.scope is openai
    assert tokens > 0
    assert openai._blind == unknown, "no call that is not sent counts before a limit is known"
    assert all(now >= then for now, then in zip(openai.remaining(limiter.clock()), rest, strict=True))
    assert scope in grant.scopes
    assert grant.tokens > 0
    assert all(now >= then for now, then in zip(scope.remaining(limiter.clock()), before, strict=True))
    assert ([lease.committed for lease in book.current.values()], book.holds) == (committed, {})


async def test_a_readers_close_hurts_nobody(fleet: Fleet) -> None:
    body = {"input": "A stream that some close.", "stream": True}
    replies = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(9)])
    for reply in replies[:6]:
        if not isinstance(reply.body, bytes):  # a replica may have heard of it when it was whole
            await anext(aiter(reply.body))
            await reply.body.aclose()
    texts = {await text(reply) for reply in replies[6:]}
    assert len(texts) == 1
    assert b"response.completed" in texts.pop()
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 1


async def test_a_leader_who_reads_slowly_or_leaves_holds_up_nobody(fleet: Fleet) -> None:
    for leaves in (False, True):
        body = {"input": f"Who is in a hurry? {leaves}", "stream": True}
        leader = await fleet.ask(0, body)
        assert not isinstance(leader.body, bytes)
        pieces = [await anext(aiter(leader.body))]
        reading = asyncio.ensure_future(anext(aiter(leader.body)))
        await asyncio.sleep(0)
        others = [asyncio.create_task(fleet.ask(replica, body)) for replica in (0, 1)]
        if leaves:  # in the middle of its wait
            local = await others[0]
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await leader.body.aclose()
        else:
            pieces.append(await reading)
            local = await others[0]
        texts = [await text(local), await text(await others[1])]
        assert b"response.completed" in texts[0]
        assert texts[0] == texts[1]
        if not leaves:
            assert b"".join(pieces) + await text(leader) == texts[0]
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_too_long_to_share_is_said_to_be_over_elsewhere_and_read_for_nobody(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    monkeypatch.setattr(flight, "MAX_BODY_BYTES", 40_000)
    for service in fleet.services:
        monkeypatch.setattr(service, "settings", replace(service.settings, max_stream_seconds=600))
    fleet.upstream.fault("stall", after=400, times=None)  # without an end: whoever waits for one waits in vain
    body = {"input": "Write 1500 words", "max_output_tokens": 4_000, "reasoning": {"effort": "none"}, "stream": True}
    leader = await fleet.ask(0, body)
    assert not isinstance(leader.body, bytes)
    await anext(leader.body)
    follower = await fleet.ask(1, body)
    assert state(follower) == "join"
    if leaves:
        await leader.body.aclose()
    else:
        reading = asyncio.create_task(text(leader))
    heard = await asyncio.wait_for(text(follower), PATIENCE_SECONDS)
    assert b'"upstream_incomplete"' in heard
    assert len(heard) < 50_000
    if not leaves:
        assert fleet.upstream.requests(0)[0]["outcome"] == "in_flight", "its own caller still hears it"
        again = await asyncio.wait_for(fleet.ask(0, body), PATIENCE_SECONDS)
        assert state(again) == "miss", "nobody waits for what cannot be joined"
        assert not isinstance(again.body, bytes)
        await again.body.aclose()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await fleet.settle()
    assert fleet.upstream.requests()[0]["outcome"] == "disconnected"


async def test_somebody_who_joins_a_stream_while_it_flows_to_its_caller_hears_all_of_it(fleet: Fleet) -> None:
    body = {"input": "What flows by?", "stream": True}
    leader = await fleet.ask(0, body)
    assert not isinstance(leader.body, bytes)
    pieces: list[bytes] = []
    flowing = asyncio.Event()

    def write(piece: bytes, _chunk: bytes) -> bool:
        pieces.append(piece)
        flowing.set()
        return True

    async def read(stream: ByteStream) -> None:
        async for piece in stream:
            pieces.append(piece)
            await stream.flow(write)

    reading = asyncio.create_task(read(leader.body))
    await asyncio.wait_for(flowing.wait(), PATIENCE_SECONDS)
    joined = await text(await fleet.ask(0, body))
    await asyncio.wait_for(reading, PATIENCE_SECONDS)
    assert b"".join(pieces) == joined
    assert b"response.completed" in joined
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 1


async def test_a_stream_that_its_only_reader_leaves_is_free_to_be_asked_again(fleet: Fleet) -> None:
    body = {"input": "Who wants to hear this?", "stream": True}
    leader = await fleet.ask(0, body)
    assert not isinstance(leader.body, bytes)
    await anext(aiter(leader.body))
    await leader.body.aclose()
    await fleet.settle()
    again = await fleet.ask(1, body)
    assert state(again) == "miss"
    await text(again)
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2


async def test_a_request_leaves_nothing_to_the_garbage_collector(
    fleet: Fleet, garbage: Callable[[], list[str]]
) -> None:
    for stream in (False, True):
        for index in range(3):
            await text(await fleet.ask(0, {"input": f"Who tidies up? {index}", "stream": stream}))
    await fleet.settle()
    assert garbage() == []


async def test_an_error_is_shared_by_those_who_wait_and_kept_for_nobody(fleet: Fleet) -> None:
    fleet.upstream.fault("status", status=400, code="invalid_value", times=1)
    body = {"input": "A question that fails."}
    replies = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(9)])
    await fleet.settle()
    failed = [reply for reply in replies if reply.status == 400]
    assert len(fleet.upstream.requests()) == 1
    assert len(failed) == 9
    assert state(await fleet.ask(1, body)) == "miss"


async def test_a_cut_answer_is_shared_and_not_kept(fleet: Fleet) -> None:
    for stream in (False, True):
        body = {"input": "Tell me a long story about the sea.", "max_output_tokens": 16, "stream": stream}
        replies = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(6)])
        assert len({await text(reply) for reply in replies}) == 1
        await fleet.settle()
        again = await fleet.ask(0, body)
        assert state(again) == "miss"
        await text(again)
        await fleet.settle()
    assert len(fleet.upstream.requests()) == 4


async def test_one_tenants_answer_is_never_anothers(fleet: Fleet) -> None:
    body = {"input": "What is the secret?"}
    other = replace(fleet.identity, tenant=fleet.identity.tenant + "-b", key_id=secrets.token_hex(6))
    one, two = await asyncio.gather(fleet.ask(0, body), fleet.ask(0, body, identity=other))
    assert (state(one), state(two)) == ("miss", "miss")
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2
    assert (await fleet.ask(1, body)).body == one.body
    assert (await fleet.ask(1, body, identity=other)).body == two.body


async def test_an_invalidated_answer_is_gone_everywhere_and_no_join_reaches_back(fleet: Fleet) -> None:
    body = {"input": "What do my documents say?"}
    tags = {"x-prodkit-cache-tags": "documents"}
    assert state(await fleet.ask(0, body, headers=tags)) == "miss"
    await fleet.settle()
    assert [state(await fleet.ask(replica, body, headers=tags)) for replica in range(3)] == ["hit"] * 3
    await fleet.services[1].cache.watch.invalidate(fleet.identity.tenant, "documents")
    before = asyncio.create_task(fleet.ask(0, body, headers=tags))
    await asyncio.to_thread(wait_until, partial(asked, fleet, 2))
    await fleet.services[2].cache.watch.invalidate(fleet.identity.tenant, "documents")
    assert state(await fleet.ask(0, body, headers=tags)) == "miss"  # the flight from before the change is not joined
    assert state(await before) == "miss"
    await fleet.settle()
    assert {state(await fleet.ask(replica, body, headers=tags)) for replica in range(3)} == {"hit"}
    assert len(fleet.upstream.requests()) == 3


@pytest.mark.parametrize("fleet", ["single", "cluster"], indirect=True)
async def test_the_same_idempotency_key_is_one_call_and_one_charge(fleet: Fleet) -> None:
    body = {"input": "Pay once.", "temperature": 2}
    once = {"idempotency-key": secrets.token_hex(4)}
    replies = await asyncio.gather(*[fleet.ask(index % 3, body, headers=once) for index in range(9)])
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 1
    assert len({reply.body for reply in replies if isinstance(reply.body, bytes)}) == 1
    assert state(await fleet.ask(2, body, headers=once)) == "hit"
    for replica in range(3):
        with pytest.raises(ApiError) as caught:
            await fleet.ask(replica, {"input": "Pay twice."}, headers=once)
        assert (caught.value.status, caught.value.code) == (400, "idempotency_key_reused")
    other = replace(fleet.identity, tenant=fleet.identity.tenant + "-b")
    assert state(await fleet.ask(0, {"input": "Pay twice."}, identity=other, headers=once)) == "miss"


async def test_what_the_caller_wishes_of_the_cache_is_done(fleet: Fleet) -> None:
    body = {"input": "What is new?"}
    with pytest.raises(ApiError) as caught:
        await fleet.ask(0, body, headers={"cache-control": "only-if-cached"})
    assert (caught.value.status, caught.value.code) == (504, "not_cached")
    first = await fleet.ask(0, body)
    await fleet.settle()
    assert (await fleet.ask(1, body, headers={"cache-control": "only-if-cached"})).body == first.body
    assert state(await fleet.ask(2, body, headers={"cache-control": "no-store"})) == "bypass"
    await asyncio.sleep(1.1)
    assert (await fleet.ask(2, body, headers={"cache-control": "max-age=1"})).body != first.body
    await fleet.settle()
    young = await fleet.ask(0, body, headers={"cache-control": "max-age=1"})
    anew = await fleet.ask(2, body, headers={"cache-control": "no-cache"})
    assert state(anew) == "miss"
    assert anew.body not in (first.body, young.body)
    await fleet.settle()
    assert (await fleet.ask(2, body)).body == anew.body
    assert dict((await fleet.ask(2, body)).headers)["age"].isdigit()


async def test_a_stale_answer_is_given_once_more_while_one_new_one_is_made(fleet: Fleet) -> None:
    for service in fleet.services:
        service.models.current._cache["/v1/responses"] = CachePolicy(1, 60)
    body = {"input": "What is almost new?"}
    first = await fleet.ask(0, body)
    await fleet.settle()
    await asyncio.sleep(1.1)
    stale = await asyncio.gather(*[fleet.ask(index % 3, body) for index in range(9)])
    assert {(state(reply), reply.body) for reply in stale} == {("stale", first.body)}
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2
    assert (await fleet.ask(0, body, headers={"cache-control": "max-age=1"})).body != first.body


async def test_a_dead_leader_costs_one_more_call(fleet: Fleet) -> None:
    """The leader's replica says nothing any more, as if it had been killed; the others wait for it, then one asks."""
    body = {"input": "Who answers when the leader is dead?"}
    owner = fleet.services[0].cache
    fleet.upstream.fault("delay", seconds=4)
    lost = asyncio.create_task(fleet.ask(0, body))
    await asyncio.to_thread(wait_until, partial(asked, fleet, 1))
    owner.watch._stopping = True
    replies = await asyncio.gather(*[fleet.ask(1 + index % 2, body) for index in range(8)])
    assert sorted(map(state, replies)) == ["join"] * 7 + ["miss"]
    owner.watch._stopping = False
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    await fleet.settle()
    assert len(fleet.upstream.requests()) == 2
    assert state(await fleet.ask(1, body)) == "hit"  # what the dead one released afterwards was not its own any more
