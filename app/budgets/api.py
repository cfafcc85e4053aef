"""GET /budgets: what a tenant and its key may spend. PUT /budgets/{scope}/{span}: an operator sets a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.budgets import limits
from app.budgets.holds import check_words
from app.budgets.policy import MEANING, Rung
from app.budgets.scope import scope_of
from app.errors import ApiError
from app.keys import ADMIN
from app.ledger import DAILY, MONTHLY
from app.pipeline.authenticate import authenticate
from app.prices import usd

if TYPE_CHECKING:
    from app.ledger import Account
    from app.services import Services

MAX_BODY_BYTES = 4_096
_SPANS = {kind: span for span, kind in limits.SPANS.items()}
FIELDS = ("limit_usd", "why")


def routes(services_of: Callable[[], Services], body_of: Callable[[Request, int], Awaitable[bytes]]) -> list[Route]:
    """The routes; `services_of` is called when a request comes, `body_of` reads a body up to a length."""

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

    async def change(request: Request) -> Response:
        services = services_of()
        identity = await authenticate(request.headers.get("authorization"), services.keys)
        request.state.identity = identity
        if identity.role != ADMIN:
            message = f"Setting budgets takes a key of role '{ADMIN}'; this one is of role '{identity.role}'."
            raise ApiError("not_allowed", message)
        scope, kind = _place(request.path_params["scope"], request.path_params["span"])
        pico, why = _wanted(await body_of(request, MAX_BODY_BYTES))
        by = f"key {identity.key_id}"
        try:
            check_words(by, why)
        except ValueError as error:
            raise ApiError("invalid_value", f"{error}.", param="why") from None
        try:
            await services.ledger.set_limit(scope, kind, pico, by=by, why=why)
        except (ApiError, ValueError):
            raise
        except Exception as error:
            raise ApiError(
                "ledger_unavailable", "The spend ledger does not answer; set it again in a second."
            ) from error
        account = await services.ledger.account(scope, kind)
        held = scope in services.control.current.holds
        return Response(orjson.dumps({**budget(account, kind), "held": held}), media_type="application/json")

    return [
        Route("/budgets", show, methods=["GET"]),
        Route("/budgets/{scope}/{span}", change, methods=["PUT"]),
    ]


def _place(scope: str, span: str) -> tuple[str, str]:
    try:
        scope_of(scope)
    except ValueError as error:
        raise ApiError("not_found", f"{error}.") from None
    if span not in limits.SPANS:
        raise ApiError(
            "not_found", f"There are budgets for a {' and for a '.join(limits.SPANS)}, none for {span[:40]!r}."
        )
    return scope, limits.SPANS[span]


def _wanted(body: bytes) -> tuple[int | None, str]:
    """The limit in pico-dollars (None: no limit) and the reason in a body; raises ApiError 400 that names the field."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise ApiError("invalid_json", 'The body must be JSON such as {"limit_usd": "50", "why": "..."}.')
    for name in sorted(set(document) - {*FIELDS}):
        raise ApiError("unsupported_parameter", f"Unknown parameter: '{name[:80]}'.", param=name[:80])
    for name in FIELDS:
        if name not in document:
            raise ApiError("missing_required_parameter", f"'{name}' is missing.", param=name)
    limit, why = document["limit_usd"], document["why"]
    if not isinstance(why, str) or not isinstance(limit, str | None):
        raise ApiError("invalid_type", "'limit_usd' is a text in dollars or null, and 'why' is a text.")
    try:
        return (None if limit is None else limits.pico_of(limit)), why
    except ValueError as error:
        raise ApiError("invalid_value", f"{error}.", param="limit_usd") from None


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
