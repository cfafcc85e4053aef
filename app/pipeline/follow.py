"""A flight that more than one replica takes part in: one asks OpenAI, the others follow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from app.cache.flight import Landing
from app.cache.store import Claim
from app.errors import ApiError
from app.pipeline.meter import stream_meter
from app.upstream import sse
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.cache.answers import Answers
    from app.cache.entry import Entry
    from app.cache.flight import Flight
    from app.cache.place import Place
    from app.pipeline.work import Work

JOIN = "join"
FIRST_LOOK_SECONDS, SLOWEST_LOOK_SECONDS = 0.01, 0.1
"""Between two looks at what another replica has; new text of a stream brings it back to the first."""


async def follow(
    answers: Answers,
    flight: Flight,
    work: Work,
    place: Place,
    claim: Claim,
    milliseconds: int,
    *,
    heartbeat_seconds: float,
) -> Claim | None:
    """Wait for what another replica asks, at most so long. Who hears it is sent comments while there is nothing new.

    None = it has landed here; else what there is to claim instead. Raises ApiError when the time is over.
    """
    store, relay = answers.store, flight.relay
    token, owner = claim.token, claim.owner
    clock = asyncio.get_running_loop().time
    deadline = clock() + milliseconds / 1000
    pause = FIRST_LOOK_SECONDS
    read, silent_at = 0, 0.0
    await store.tell(owner, place.key, token)
    while clock() < deadline:
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, SLOWEST_LOOK_SECONDS)
        now = await store.follow(place, token, read)
        if now.entry is not None:
            _end(flight, now.entry, read)
            return None
        lost = now.over or now.token != token
        if not lost and not answers.watch.alive(owner):
            lost = await store.take_over(place, token, flight.token, milliseconds)
            now = Claim(token=flight.token, owner=owner, fingerprint=place.fingerprint)
        if lost and read:
            # Another answer would go on otherwise than this one began.
            relay.add(broken(work))
            if now.token == flight.token:
                await store.release(place, flight.token, None)
            return None
        if lost and now.token == flight.token:
            return now
        if lost:
            return await store.claim(place, flight.token, milliseconds)
        if now.text:
            flight.land(Landing(JOIN, None))
            relay.add(now.text)
            read += len(now.text)
            pause = FIRST_LOOK_SECONDS
            await relay.room()
            silent_at = clock() + heartbeat_seconds
        elif read and clock() >= silent_at:
            relay.add(sse.HEARTBEAT)
            silent_at = clock() + heartbeat_seconds
    raise ApiError("upstream_timeout", "The answer did not come in time; try again.")


def _end(flight: Flight, entry: Entry, read: int) -> None:
    """All of the answer is there."""
    if read:
        flight.relay.add(entry.body[read:])
    else:
        flight.land(Landing(JOIN, entry))


async def publish(answers: Answers, flight: Flight) -> None:
    """Give a stream to the other replicas as it comes; a whole answer they find where it is kept."""
    relay, sent, told = flight.relay, 0, 0
    while relay.shareable:
        pieces, sent = relay.pieces[sent:], len(relay.pieces)
        text = b"".join([piece for piece in pieces if piece is not sse.HEARTBEAT])
        try:
            if text and not await answers.store.publish(flight.key, flight.token, text, told):
                return
        except ValkeyAwayError:
            return
        told += len(text)
        if sent < len(relay.pieces):
            continue
        if relay.ended:
            return
        await relay.more()


def broken(work: Work) -> bytes:
    """The event that ends a stream whose leader is gone."""
    meter = stream_meter(work.plan.endpoint, hides_usage=work.plan.hides_usage)
    name, data = meter.error_event("upstream_incomplete", "The stream was cut before its end; try again.")
    return sse.write(orjson.dumps(data), name)
