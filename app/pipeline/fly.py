"""Ask once for everybody: a flight is led here, or followed when another replica leads it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from app.cache.answers import Answers, Found
from app.cache.entry import Entry
from app.cache.flight import Flight, Landing, Reader
from app.cache.store import Claim
from app.cache.wishes import key_reused
from app.errors import ApiError, Domain
from app.ledger import Outcome
from app.pipeline.follow import JOIN, broken, follow, publish
from app.pipeline.headers import own_headers
from app.pipeline.lead import Lead
from app.pipeline.messages import Reply
from app.pipeline.pay import Payment
from app.pipeline.record import Record
from app.pipeline.stream import MeteredStream
from app.pipeline.work import Work
from app.upstream import sse
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.services import Services

HIT, MISS, STALE = "hit", "miss", "stale"
JSON = "application/json"
CLAIM_SLACK_SECONDS = 30
"""Beyond the longest that the call behind a claim may take."""

log = logging.getLogger(__name__)


class Maker(Protocol):
    """Makes the answers that are not kept, and does what comes after."""

    def prepare(self, work: Work) -> None:
        """Set aside for an answer what is there at once, while it is found out whether it has to be made."""

    def take_back(self, work: Work) -> None:
        """Undo `prepare`: there is an answer."""

    def produce(self, work: Work) -> Coroutine[Any, Any, Reply]:
        """Make it, prepared or not."""

    def later(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Do work that no caller waits for."""

    def write(self, record: Record) -> None:
        """End a record."""


class Flights:
    """The questions that are being asked by this process, or followed by it."""

    def __init__(self, services: Services, maker: Maker) -> None:
        self._services = services
        self._answers: Answers = services.cache
        self._answers.on_waiting = self._heard_elsewhere
        self._maker = maker
        self._loop = asyncio.get_running_loop()
        self._later = maker.later
        self._write = maker.write
        self._flights: dict[str, Flight] = {}

    def board(self, work: Work, place: Place, *, shared: bool = True) -> Coroutine[Any, Any, Reply]:
        """Join the flight for a place, or lead it; `shared` = with the other replicas. Raises ApiError. Await it at
        once.

        Who leads asks in the task of its own request, which may have to go on when its caller has left: others wait for
        the answer. So `Call.left` is asked before that task is cancelled.
        """
        if place.key in self._flights:
            return self._join(work, place, shared=shared)
        return self._lead(work, place, shared=shared)

    async def _join(self, work: Work, place: Place, *, shared: bool) -> Reply:
        while (flight := self._flights.get(place.key)) is not None and flight.open:
            if flight.fingerprint != place.fingerprint:
                raise key_reused()
            try:
                landing = await flight.landing()
            except ApiError as error:
                # The leader's own limits are no reason to refuse somebody else.
                if error.domain is not Domain.POLICY or flight.leader == work.call.identity.key_id:
                    raise
                self._forget(flight)
                continue
            return self._joined(flight, landing, work)
        return await self._lead(work, place, shared=shared)

    async def _lead(self, work: Work, place: Place, *, shared: bool) -> Reply:
        flight, call, record = self._begin(work, place), work.call, work.record
        flight.led_by(asyncio.current_task(self._loop))
        call.on_left = partial(self._left, flight, record)
        reply = await self._fly(flight, work, place, shared=shared)
        call.on_left = None
        if reply is not None:
            return reply
        if flight.orphaned:
            raise asyncio.CancelledError
        try:
            landing = flight.landed() or await flight.landing(counted=True)
        except asyncio.CancelledError:
            if flight.wanted:
                self._orphan(flight, record)
            raise
        if landing.state != MISS:
            return self._joined(flight, landing, work)
        assert landing.headers is not None
        if landing.entry is not None:
            return Reply(landing.status, landing.headers, landing.entry.body)
        assert flight.lead is not None
        return Reply(landing.status, landing.headers, flight.lead.take())

    def refresh(self, work: Work, place: Place) -> None:
        """Make a stale answer new for those who ask next, unless somebody does. It has a line of its own in the log."""
        if place.key in self._flights:
            return
        record = Record(f"{work.call.request_id}-refresh", work.call.endpoint, work.call.identity)
        record.planned(work.plan)
        payment = Payment(self._services.ledger, work.call, record)
        again = Work(work.call, record, work.plan, place, payment)
        flight = self._begin(again, place, background=True)
        record.told = flight.orphaned = True
        flight.task = self._later(self._fly(flight, again, place, shared=True))

    def _begin(self, work: Work, place: Place, *, background: bool = False) -> Flight:
        if work.record.cache is None:
            work.record.cache = MISS
        leader = work.call.identity.key_id
        flight = Flight(place.key, self._answers.token(), leader, place.fingerprint, background=background)
        self._flights[place.key] = flight
        return flight

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _left(self, flight: Flight, record: Record) -> bool:
        """The caller of the request that leads has gone; whether its work ends with that."""
        if flight.abandoned():
            self._forget(flight)  # nobody joins what is being given up
            return True
        self._orphan(flight, record)
        return False

    def _orphan(self, flight: Flight, record: Record) -> None:
        """The leader's caller has gone: the line of its request is written when the flight has ended."""
        if not record.told:
            record.left(draining=self._services.draining)
            record.told = flight.orphaned = True

    def _joined(self, flight: Flight, landing: Landing, work: Work) -> Reply:
        """What the flight came to, for a caller who asked nothing of OpenAI."""
        record, entry = work.record, landing.entry
        state = JOIN if landing.state == MISS else landing.state
        work.payment.cached(work.plan, Outcome.JOINED if state == JOIN else Outcome.CACHED)
        if entry is not None:
            return kept(record, Found(entry, state, landing.age))
        record.cache, record.status = state, 200

        def ended(left: bool) -> None:
            if left:
                record.left(draining=self._services.draining)
            self._write(record)

        if flight.lead is not None:
            flight.lead.share()
        return Reply(200, [("content-type", sse.MEDIA_TYPE), *own_headers(record)], Reader(flight, ended))

    async def _fly(
        self, flight: Flight, work: Work, place: Place, *, shared: bool, claim: Claim | None = None
    ) -> Reply | None:
        """A flight, but for a stream that has begun; raises nothing but cancellation.

        A reply is for the only caller there is: the flight lands as soon as that one has been answered. A stream that
        another replica asks for is followed in a task of its own, by its `claim`.
        """
        claimed, ended = shared, True
        reply: Reply | None = None
        try:
            if claim is None and shared:
                claim = await self._claim(flight, work, place)
                if place.stream and claim is not None and claim.token != flight.token:
                    claimed = ended = False
                    flight.task = self._later(self._fly(flight, work, place, shared=True, claim=claim))
                    return None
            if claim is not None and claim.token != flight.token and await self._settled(flight, work, place, claim):
                claimed = False
                return None
            reply = await self._ask(flight, work, place, shared=shared)
            claimed = False
            ended = reply is None and flight.lead is None
        except ApiError as error:
            if flight.background:
                work.record.refused(error)
            flight.land(error)
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": work.call.request_id}})
            flight.land(
                ApiError("internal_error", f"Something went wrong here; report it with {work.call.request_id}.")
            )
        finally:
            if ended:
                self._end(flight, work, place, claimed=claimed)
        return reply

    async def _claim(self, flight: Flight, work: Work, place: Place) -> Claim | None:
        """What Valkey says of the question; None when it says nothing.

        While it finds out, what the answer will need is set aside: most questions were not asked before.
        """
        store = self._answers.store
        try:
            milliseconds = self._longest(work)
            asked = store.ask(place, flight.token, milliseconds, anew=flight.background)
            if not work.record.rung:  # near the end of a budget nothing is taken for an answer that may be there
                self._maker.prepare(work)
            claim = await store.claimed(place, flight.token, milliseconds, asked)
        except ValkeyAwayError:
            return None
        except BaseException:
            self._maker.take_back(work)
            raise
        if claim.token != flight.token:
            self._maker.take_back(work)
        return claim

    async def _ask(self, flight: Flight, work: Work, place: Place, *, shared: bool) -> Reply | None:
        """Ask OpenAI, share what comes, keep it when it may be kept. None = the flight has landed, or has become a
        stream, which has only begun."""
        reply = await self._maker.produce(work)
        if not isinstance(reply.body, bytes):
            assert isinstance(reply.body, MeteredStream)
            on_end = partial(self._streamed, flight, work, place, shared)
            flight.task = None  # there is none until somebody joins
            flight.relay.on_too_long = partial(self._too_long, flight, place, shared)
            flight.lead = Lead(flight, reply.body, later=self._later, on_end=on_end)
            if not flight.alone:
                flight.lead.share()
            flight.land(Landing(MISS, None, reply.headers))
            return None
        good = work.complete or (place.fingerprint != "" and reply.status == 200)
        if flight.alone and (good or not shared):
            # Everybody else's turn is after the caller's, whose answer is written first.
            flight.task = None
            self._loop.call_soon(self._land, flight, work, place, reply, shared)
            return reply
        if shared and not good:
            entry = self._answers.made(place, reply.body, work.plan.model.name, status=reply.status)
            await self._answers.release(place, flight.token, entry)  # for those who wait already
            # Forgotten before anybody learns of it: whoever tries again must not meet the same answer.
            self._forget(flight)
            flight.land(Landing(MISS, entry, reply.headers, reply.status))
        else:
            self._land(flight, work, place, reply, shared)
        return None

    def _land(self, flight: Flight, work: Work, place: Place, reply: Reply, shared: bool) -> None:
        """Give an answer that is good, or nobody else's, to all who wait for it, and to those who ask next."""
        assert isinstance(reply.body, bytes)
        entry = self._answers.made(place, reply.body, work.plan.model.name, status=reply.status)
        if shared:
            self._answers.keep(place, flight.token, entry)  # at once: the next replica may be asked already
        self._forget(flight)
        flight.land(Landing(MISS, entry, reply.headers, reply.status))
        flight.end()

    def _streamed(self, flight: Flight, work: Work, place: Place, shared: bool, whole: bool) -> None:
        """A stream has ended, as a `whole` or not: keep it when it may be kept."""
        relay = flight.relay
        relay.end()
        self._write_orphan(flight, work)
        entry = None
        if shared and whole and relay.shareable:
            entry = self._answers.made(place, relay.text(), work.plan.model.name)
        if work.complete and entry is not None:
            self._answers.keep(place, flight.token, entry)
        elif shared and relay.shareable:
            self._later(self._released(flight, place, entry))
            return
        self._forget(flight)

    def _too_long(self, flight: Flight, place: Place, shared: bool) -> None:
        """Nobody can join a stream any more: who hears it on other replicas is told, and who asks next asks OpenAI."""
        self._forget(flight)
        if shared:
            self._later(self._answers.release(place, flight.token, None))
        flight.unheard_elsewhere()

    async def _released(self, flight: Flight, place: Place, entry: Entry | None) -> None:
        """Who asks until the store has been told is one of the flight."""
        await self._answers.release(place, flight.token, entry)
        self._forget(flight)

    def _end(self, flight: Flight, work: Work, place: Place, *, claimed: bool) -> None:
        """Nobody waits for a flight any more, however it ended."""
        flight.end()
        self._forget(flight)
        if claimed:
            self._later(self._answers.release(place, flight.token, None))
        self._write_orphan(flight, work)

    def _write_orphan(self, flight: Flight, work: Work) -> None:
        if flight.orphaned and work.record.status is not None:
            work.record.told = False
            self._write(work.record)

    async def _settled(self, flight: Flight, work: Work, place: Place, claim: Claim) -> bool:
        """Whether there is nothing to ask: an answer was kept, or another replica asked. False = this one shall."""
        store, milliseconds = self._answers.store, self._longest(work)
        try:
            while True:
                if claim.fingerprint != place.fingerprint:
                    raise key_reused()
                if claim.entry is not None:
                    if flight.background or self._land_kept(flight, work, place, claim.entry):
                        return True
                    # Older than the caller wants it; when another replica makes it new, this one asks all the same.
                    claim = await store.claim(place, flight.token, milliseconds, anew=True)
                    if claim.entry is not None:
                        return False
                if claim.token == flight.token:
                    return False
                heartbeat = self._services.settings.heartbeat_seconds
                following = await follow(
                    self._answers, flight, work, place, claim, milliseconds, heartbeat_seconds=heartbeat
                )
                if following is None:
                    return True
                claim = following
        except (ValkeyAwayError, ApiError) as error:
            return _broken_off(flight, work, error)

    def _land_kept(self, flight: Flight, work: Work, place: Place, entry: Entry) -> bool:
        found = self._answers.accept(place, entry)
        if found is None:
            return False
        flight.land(Landing(found.state, found.entry, age=found.age))
        if found.state == STALE:
            self._forget(flight)
            self.refresh(work, place)
        return True

    def _heard_elsewhere(self, key: str, token: str) -> None:
        """Another replica waits for what this one asks."""
        flight = self._flights.get(key)
        if flight is not None and flight.token == token and not flight.remote:
            flight.remote = True
            if flight.lead is not None:
                flight.lead.share()
            self._later(publish(self._answers, flight))

    def _longest(self, work: Work) -> int:
        """Milliseconds that a claim may last."""
        settings = self._services.settings
        seconds = settings.max_stream_seconds if work.plan.stream else settings.request_timeout_seconds
        return int(1000 * (seconds + CLAIM_SLACK_SECONDS))


def _broken_off(flight: Flight, work: Work, error: ValkeyAwayError | ApiError) -> bool:
    """Whether somebody heard a part of a stream that is not followed any more: who did is told that it is not all.
    Else False when this replica may ask instead; raises the error that says that it may not."""
    if flight.relay.pieces:
        flight.relay.add(broken(work))
        return True
    if isinstance(error, ApiError):
        raise error
    return False


def kept(record: Record, found: Found) -> Reply:
    """The reply with an answer that this call did not ask for."""
    entry = found.entry
    record.cache, record.model, record.status = found.state, entry.model, entry.status
    headers = [("content-type", entry.content_type), *own_headers(record)]
    if found.state != JOIN:
        headers.append(("age", str(int(found.age))))
    return Reply(entry.status, headers, entry.body)
