"""Step: has this tenant asked this before, or is it being asked just now? Else it is asked, once for all who wait."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from app.budgets.policy import Rung
from app.cache.answers import Answers, Found
from app.cache.memory import Road
from app.cache.place import Place, place_of
from app.cache.wishes import IDEMPOTENCY_HEADER, TAGS_HEADER
from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.errors import ApiError
from app.ledger import Outcome
from app.pipeline.fly import MISS, STALE, Flights, Maker, kept
from app.pipeline.messages import Reply
from app.pipeline.pay import Payment, kept_of
from app.pipeline.work import Work
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call
    from app.pipeline.record import Record
    from app.services import Services

BYPASS = "bypass"


class LookUp:
    """Finds answers for the calls of one pipeline."""

    def __init__(self, services: Services, maker: Maker) -> None:
        """`maker` makes the answers that are not kept."""
        self._services = services
        self._answers: Answers = services.cache
        self._produce = maker.produce
        self._flights = Flights(services, maker)

    def at_once(self, call: Call, record: Record) -> Reply | None:
        """The reply to a call that was answered before in the very same bytes, when that needs no waiting at all."""
        headers = call.headers
        # First, as most questions were not asked before.
        if not self._answers.memory.asked(call.body):
            return None
        if "cache-control" in headers or IDEMPOTENCY_HEADER in headers or DEADLINE_HEADER in headers:
            return None  # another request than its bytes say
        way = self._answers.short_way(call, headers.get(TAGS_HEADER), self._services.models.current)
        if way is None:
            return None
        road, found = way
        if not self._services.budgets.leaves_alone(call.identity, road.plan.model.name):
            return None
        record.planned(road.plan)
        self._services.ledger.count(kept_of(call, road.plan, Outcome.CACHED), call.request_id)
        return kept(record, found)

    def answer(self, call: Call, plan: Plan, record: Record) -> Reply | Coroutine[Any, Any, Reply]:
        """The kept answer when it is held here, else what waits for it, for that of a flight, or for a new one; raises
        ApiError."""
        if record.rung:
            return self._answer_spared(call, plan, record)
        return self._answer(call, plan, record, place_of(call, plan))

    async def _answer_spared(self, call: Call, plan: Plan, record: Record) -> Reply:
        """On a rung of the ladder: on a high one with an old answer, on all of them one that is kept for longer."""
        if record.rung >= Rung.CACHED:
            spared = await self._spared(call, plan, record)
            if spared is not None:
                return spared
        place = place_of(call, plan)
        if place is not None:
            place.spare_seconds = plan.models.budget.stale_seconds
        reply = self._answer(call, plan, record, place)
        return reply if isinstance(reply, Reply) else await reply

    def _answer(
        self, call: Call, plan: Plan, record: Record, place: Place | None
    ) -> Reply | Coroutine[Any, Any, Reply]:
        work = Work(call, record, plan, place, self._payment(call, record))
        if place is None:
            record.cache = BYPASS
            return self._produce(work)
        stamp = self._answers.watch.known_stamp(place.fields) if place.fields else ""
        return self._answer_late(work, place) if stamp is None else self._answer_at(work, place, stamp)

    async def _answer_late(self, work: Work, place: Place) -> Reply:
        """Where the epochs have to be asked for."""
        stamp = await self._answers.watch.stamp(place.fields)
        if stamp is None:
            return await self._without_epochs(work)
        reply = self._answer_at(work, place, stamp)
        return reply if isinstance(reply, Reply) else await reply

    def _answer_at(self, work: Work, place: Place, stamp: str) -> Reply | Coroutine[Any, Any, Reply]:
        call, record, plan = work.call, work.record, work.plan
        place.at(stamp)
        if place.wishes.no_cache:
            return self._anew(work, place)
        found = self._answers.held(place) if place.fields else None
        if found is None:
            if place.wishes.only_if_cached:
                return self._only_if_cached(work, place)
            return self._flights.board(work, place)
        if not record.rung:
            # Only now: most questions are asked once, and their way would be remembered for nothing.
            request = (place.tenant, call.endpoint, call.body, call.headers.get(TAGS_HEADER))
            self._answers.memory.remember(request, Road(plan.models, place, plan))
        if found.state == STALE:
            self._flights.refresh(work, place)
        work.payment.cached(plan)
        return kept(record, found)

    async def _spared(self, call: Call, plan: Plan, record: Record) -> Reply | None:
        """A kept answer as old as the budget's policy allows, and no call to make it new: first one to the question as
        it was asked, then one as short and cheap as this rung gives. What the caller wishes of the cache counts."""
        seconds = plan.models.budget.stale_seconds
        for each in (plan.undegraded, plan):
            place = None if each is None else place_of(call, each)
            if each is None or place is None or not place.fields or place.wishes.no_cache:
                continue
            stamp = await self._answers.watch.stamp(place.fields)
            if stamp is None:
                return None
            place.at(stamp)
            found = self._answers.held(place, seconds) or await self._stored(place, seconds)
            if found is not None:
                self._payment(call, record).cached(each)
                return kept(record, found)
        return None

    async def _stored(self, place: Place, spare: float = 0.0) -> Found | None:
        """What the shared tier has, and nobody is asked for."""
        try:
            claim = await self._answers.store.follow(place, "", 0)
        except ValkeyAwayError:
            return None
        return None if claim.over or claim.entry is None else self._answers.accept(place, claim.entry, spare)

    def _payment(self, call: Call, record: Record) -> Payment:
        return Payment(self._services.ledger, call, record)

    async def _without_epochs(self, work: Work) -> Reply:
        """Valkey is away: nothing kept can be trusted. What is asked in one moment still shares one answer here."""
        place, record = work.place, work.record
        assert place is not None
        if place.wishes.only_if_cached:
            raise _not_kept()
        record.cache = BYPASS
        tagged = len(place.fields) > 1
        if tagged or place.wishes.no_cache:
            work.place = None
            return await self._produce(work)
        place.at("")
        return await self._flights.board(work, place, shared=False)

    async def _anew(self, work: Work, place: Place) -> Reply:
        """A new answer for a caller who wants no other; a whole one is kept for those who do not mind."""
        work.record.cache = MISS
        reply = await self._produce(work)
        if isinstance(reply.body, bytes) and work.complete:
            entry = self._answers.made(place, reply.body, work.plan.model.name)
            self._answers.keep(place, self._answers.token(), entry)
        return reply

    async def _only_if_cached(self, work: Work, place: Place) -> Reply:
        found = await self._stored(place)
        if found is None:
            raise _not_kept()
        work.payment.cached(work.plan)
        return kept(work.record, found)


def _not_kept() -> ApiError:
    return ApiError("not_cached", "No answer to this is kept, and `Cache-Control: only-if-cached` asks for no other.")
