"""GET /budgets: what a tenant and its key may spend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.budgets import operate
from app.budgets.policy import MEANING, Rung
from app.budgets.shown import budget
from app.ledger import DAILY, MONTHLY
from app.pipeline.authenticate import authenticate

if TYPE_CHECKING:
    from app.services import Services


def routes(services_of: Callable[[], Services], body_of: operate.BodyOf) -> list[Route]:
    """The routes, with those of operators; `services_of` is called when a request comes, `body_of` reads a body."""

    async def show(request: Request) -> Response:
        services = services_of()
        identity = await authenticate(request.headers.get("authorization"), services.keys)
        request.state.identity = identity
        control = services.control.current
        found = []
        for scope in (f"tenant:{identity.tenant}", f"key:{identity.key_id}"):
            for kind in (MONTHLY, DAILY):
                account = await services.ledger.account(scope, kind)
                if kind == MONTHLY or account.limit is not None:
                    found.append({**budget(account, kind), "held": scope in control.holds})
        place = services.budgets.place(identity, "")
        rung = place[1].rung if place else Rung.NORMAL
        answer = {"object": "list", "data": found, "rung": rung.label, "meaning": MEANING[rung]}
        return Response(orjson.dumps(answer), media_type="application/json")

    return [Route("/budgets", show, methods=["GET"]), *operate.routes(services_of, body_of)]
