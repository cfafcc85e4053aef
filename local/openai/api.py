"""The API as an ASGI application: reads a request, knows who asks and for which model, and watches the caller."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from local.openai import batches, files
from local.openai.endpoints import ENDPOINTS, find_model, without_body
from local.openai.errors import ApiError, bad, coded
from local.openai.journal import MOST_BODY_BYTES, Entry
from local.openai.organization import ADMIN_KEY_START
from local.openai.organization_paths import PREFIX, administer
from local.openai.request import DEFAULT_MODERATION_MODEL, Request
from local.openai.state import Simulator, key_hash
from local.openai.wire import Send, Wire

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Api:
    """The ASGI application under `/v1`."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, watching for the caller to leave meanwhile."""
        body = await _read(receive)
        if body is None:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scheme, _, key = headers.pop("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        clock, journal = self.simulator.clock, self.simulator.journal
        name = f"req_{secrets.token_hex(16)}"
        kept = body if len(body) <= MOST_BODY_BYTES else None
        entry = Entry(name, scope["method"], scope["path"], key_hash(key), headers, kept, clock.now())
        journal.open(entry)
        query = scope["query_string"].decode("latin-1")
        request = Request(self.simulator, entry, Wire(clock, entry, send, scope["state"]["transport"]), body, query)
        work = asyncio.ensure_future(self._serve(request, key))
        left = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            if entry.outcome == "in_flight":
                entry.outcome = "disconnected"
            journal.close(entry, clock.now())
            self.simulator.bill.book(entry)
            if entry.outcome == "broken":
                await left  # returning before the server saw the close would be reported as our failure
            left.cancel()

    async def _serve(self, request: Request, key: str) -> None:
        wire, entry = request.wire, request.entry
        wire.headers = {"x-request-id": entry.id, "openai-version": "2020-10-01"}
        try:
            self._authenticate(key, entry.path)
            wire.headers |= {"openai-organization": "org-simulator", "openai-project": f"proj_{request.key}"}
            endpoint = ENDPOINTS.get(entry.path)
            if endpoint is None:
                if not await request.strike():
                    await _other(request)
                return
            self._understand(request, endpoint.kind)
            request.admit_request()
            if not await request.strike():
                await endpoint.handle(request)
        except ApiError as error:
            await wire.error(error)

    def _authenticate(self, key: str, path: str) -> None:
        if not key:
            text = "You didn't provide an API key. Send it in an Authorization header using Bearer auth."
            raise ApiError(401, text)
        accepted, hashed = self.simulator.accepted_keys, key_hash(key)
        known = accepted is None or hashed in accepted
        if not key.startswith("sk-") or not known or not self.simulator.organization.admits(hashed):
            shown = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
            text = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com."
            raise coded("invalid_api_key", text)
        # Keys of projects are for models, admin keys for the organization; neither may do what the other does.
        administers = path.startswith(PREFIX)
        if administers != key.startswith(ADMIN_KEY_START):
            scope = "api.management.write" if administers else "api.model.read"
            text = f"You have insufficient permissions for this operation. Missing scopes: {scope}."
            raise ApiError(403, text)

    def _understand(self, request: Request, kind: str) -> None:
        """Parse the body and find the model, or raise what OpenAI answers."""
        entry = request.entry
        if entry.method != "POST":
            raise ApiError(405, f"Not allowed to {entry.method} on {entry.path}.", "method_not_supported")
        try:
            body = orjson.loads(request.raw)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise bad("We could not parse the JSON body of your request. The API expects a JSON payload.")
        request.body = body
        entry.stream = body.get("stream") is True
        name = body.get("model") or (DEFAULT_MODERATION_MODEL if kind == "moderation" else None)
        if not isinstance(name, str):
            raise bad("you must provide a model parameter", "model", "missing_required_parameter")
        entry.model = name
        request.model = find_model(self.simulator, name)
        if request.model.kind != kind:
            raise bad(f"The model '{name}' cannot be used with {entry.path}.", "model", "unsupported_model")


async def _other(request: Request) -> None:
    """Answer what no model is asked for."""
    path = request.entry.path
    if path.startswith(PREFIX):
        await administer(request)
        return
    collection, _, name = path.removeprefix("/v1/").partition("/")
    if collection == "files":
        await files.handle(request, name)
    elif collection == "batches":
        await batches.handle(request, name)
    else:
        await without_body(request)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the caller left before it was there."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
