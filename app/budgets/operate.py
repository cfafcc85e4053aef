"""PUT and DELETE of a limit or a hold: what an operator changes by HTTP, with who and why on record."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.aws import error_code
from app.budgets import holds, limits
from app.budgets.holds import check_words
from app.budgets.scope import scope_of
from app.budgets.shown import budget
from app.errors import ApiError
from app.keys import ADMIN
from app.ledger import Default
from app.pipeline.authenticate import authenticate

if TYPE_CHECKING:
    from app.budgets.control import Hold
    from app.services import Services

MAX_BODY_BYTES = 4_096
FIELDS = ("limit_usd", "why")
WHY = ("why",)
BodyOf = Callable[[Request, int], Awaitable[bytes]]


def routes(services_of: Callable[[], Services], body_of: BodyOf) -> list[Route]:
    """The routes; `services_of` is called when a request comes, `body_of` reads a body up to a length."""

    async def change(request: Request) -> Response:
        services, by = await _operator(services_of(), request)
        scope, kind = _place(request.path_params["scope"], request.path_params["span"])
        body = await body_of(request, MAX_BODY_BYTES)
        pico, why = _wanted(body) if request.method == "PUT" else (Default.LIMIT, _why(body))
        _check(by, why)
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

    async def switch(request: Request) -> Response:
        services, by = await _operator(services_of(), request)
        scope = _scope(request.path_params["scope"])
        why = _why(await body_of(request, MAX_BODY_BYTES))
        _check(by, why)
        held = await _switched(services, scope, by, why, on=request.method == "PUT")
        await services.control.poll()  # this replica obeys at once, the others within two seconds
        answer = {"object": "hold", "scope": scope, "held": held is not None}
        if held is not None:
            answer |= {"since": held.at, "by": held.by, "why": held.why}
        return Response(orjson.dumps(answer), media_type="application/json")

    return [
        Route("/budgets/{scope}/hold", switch, methods=["PUT", "DELETE"]),
        Route("/budgets/{scope}/{span}", change, methods=["PUT", "DELETE"]),
    ]


async def _operator(services: Services, request: Request) -> tuple[Services, str]:
    """The services and who asks; raises ApiError 403 for a key that may not set what others spend."""
    identity = await authenticate(request.headers.get("authorization"), services.keys)
    request.state.identity = identity
    if identity.role != ADMIN:
        message = f"Setting budgets takes a key of role '{ADMIN}'; this one is of role '{identity.role}'."
        raise ApiError("not_allowed", message)
    return services, f"key {identity.key_id}"


async def _switched(services: Services, scope: str, by: str, why: str, *, on: bool) -> Hold | None:
    """Hold a scope or release it; the hold there is then. Raises ApiError 404 when there is nothing to release."""
    aws, table, now = services.aws, services.settings.state_table, time.time()

    def write() -> Hold | None:
        client = aws.client("dynamodb")
        if on:
            return holds.hold(client, table, scope, by, why, now=now)
        holds.release(client, table, scope, by, why, now=now)
        return None

    try:
        return await aws.run(write)
    except LookupError as error:
        raise ApiError("not_found", f"{error}.") from None
    except ValueError as error:
        raise ApiError("conflict", f"{error}.") from None
    except Exception as error:
        message = f"The state table does not answer ({error_code(error)}); try again in a second."
        raise ApiError("service_unavailable", message) from error


def _scope(text: str) -> str:
    try:
        return scope_of(text)
    except ValueError as error:
        raise ApiError("not_found", f"{error}.") from None


def _check(by: str, why: str) -> None:
    try:
        check_words(by, why)
    except ValueError as error:
        raise ApiError("invalid_value", f"{error}.", param="why") from None


def _place(scope: str, span: str) -> tuple[str, str]:
    _scope(scope)
    if span not in limits.SPANS:
        raise ApiError(
            "not_found", f"There are budgets for a {' and for a '.join(limits.SPANS)}, none for {span[:40]!r}."
        )
    return scope, limits.SPANS[span]


def _wanted(body: bytes) -> tuple[int | None, str]:
    """The limit in pico-dollars (None: no limit) and the reason in a body; raises ApiError 400 that names the field."""
    document = _document(body, FIELDS, '{"limit_usd": "50", "why": "..."}')
    limit, why = document["limit_usd"], document["why"]
    if not isinstance(why, str) or not isinstance(limit, str | None):
        raise ApiError("invalid_type", "'limit_usd' is a text in dollars or null, and 'why' is a text.")
    try:
        return (None if limit is None else limits.pico_of(limit)), why
    except ValueError as error:
        raise ApiError("invalid_value", f"{error}.", param="limit_usd") from None


def _why(body: bytes) -> str:
    """The reason in a body that says nothing else; raises ApiError 400 that names the field."""
    why = _document(body, WHY, '{"why": "..."}')["why"]
    if not isinstance(why, str):
        raise ApiError("invalid_type", "'why' is a text.", param="why")
    return why


def _document(body: bytes, names: Sequence[str], example: str) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise ApiError("invalid_json", f"The body must be JSON such as {example}.")
    for name in sorted(set(document) - {*names}):
        raise ApiError("unsupported_parameter", f"Unknown parameter: '{name[:80]}'.", param=name[:80])
    for name in names:
        if name not in document:
            raise ApiError("missing_required_parameter", f"'{name}' is missing.", param=name)
    return document
