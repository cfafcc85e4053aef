"""GET /budgets: what a tenant and its key may spend, have spent, and how far that is degraded. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.budgets.policy import MEANING, Rung
from app.ledger import DAILY, MONTHLY
from app.pipeline.authenticate import authenticate
from app.prices import usd

if TYPE_CHECKING:
    from app.ledger import Account
    from app.services import Services

_SPANS = {MONTHLY: "month", DAILY: "day"}


def routes(services_of: Callable[[], Services]) -> list[Route]:
    """The route; `services_of` is called when a request comes, as nothing exists before the start."""

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

    return [Route("/budgets", show, methods=["GET"])]


def budget(account: Account, kind: str) -> dict[str, Any]:
    """One account as JSON. Pico-dollars are texts: 2^53 of them are $9,007, and a reader's numbers end there."""
    amounts = {
        "limit": account.limit,
        "spent": account.spent,
        "reserved": account.reserved,
        "suspense": account.suspense,
        "left": account.left,
    }
    return {
        "object": "budget",
        "scope": account.scope,
        "span": _SPANS[kind],
        "window": account.window,
        "resets_at": account.resets,
        **{f"{name}_pico": None if pico is None else str(pico) for name, pico in amounts.items()},
        **{name: None if pico is None else usd(pico) for name, pico in amounts.items()},
    }
