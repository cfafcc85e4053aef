"""The API as an ASGI application: who asks, what for, whether the limits allow it, and the answer."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from local.openai import chat, embeddings, moderations, response_object, responses
from local.openai.answers import answer
from local.openai.ask import Ask, Turn
from local.openai.errors import ApiError, bad, coded
from local.openai.faults import Fault
from local.openai.journal import Entry
from local.openai.latency import Pace, pace
from local.openai.models import MODELS, Model
from local.openai.prompt_cache import Cached
from local.openai.state import Simulator, key_hash
from local.openai.wire import Send, Wire

Receive = Callable[[], Awaitable[dict[str, Any]]]
Handler = Callable[["Request"], Awaitable[None]]
_PATHS = {
    "/v1/responses": "text",
    "/v1/chat/completions": "text",
    "/v1/embeddings": "embedding",
    "/v1/moderations": "moderation",
}
_DEFAULT_MODERATION = "omni-moderation-latest"


class Request:
    """One request on its way: its journal entry, the wire back, and the fault that strikes it."""

    def __init__(self, entry: Entry, wire: Wire) -> None:
        self.entry = entry
        self.wire = wire
        self.key = entry.key
        self.body: dict[str, Any] = {}
        self.model: Model = MODELS[_DEFAULT_MODERATION]
        self.fault: Fault | None = None


class Api:
    """The ASGI application under `/v1`."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._handlers: dict[str, Handler] = {
            "/v1/responses": self._responses,
            "/v1/chat/completions": self._chat,
            "/v1/embeddings": self._embeddings,
            "/v1/moderations": self._moderations,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, watching for the caller to leave meanwhile."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        authorization = headers.pop("authorization", "")
        clock, journal = self.simulator.clock, self.simulator.journal
        key = authorization.removeprefix("Bearer ").strip()
        entry = Entry(
            f"req_{secrets.token_hex(16)}", scope["method"], scope["path"], key_hash(key), headers, body, clock.now()
        )
        journal.open(entry)
        request = Request(entry, Wire(self.simulator, entry, send, scope["state"]["transport"]))
        work = asyncio.ensure_future(self._serve(request, authorization))
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
            if entry.outcome == "broken":
                await left  # returning before the server saw the close would be reported as our failure
            left.cancel()

    async def _serve(self, request: Request, authorization: str) -> None:
        wire, entry = request.wire, request.entry
        wire.headers = {"x-request-id": entry.id, "openai-version": "2020-10-01"}
        try:
            self._authenticate(authorization)
            wire.headers |= {"openai-organization": "org-simulator", "openai-project": f"proj_{request.key}"}
            await self._route(request)
        except ApiError as error:
            await wire.error(error)

    def _authenticate(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            text = "You didn't provide an API key. Send it in an Authorization header using Bearer auth."
            raise ApiError(401, text, None)
        accepted = self.simulator.accepted_keys
        if not key.startswith("sk-") or (accepted is not None and key_hash(key) not in accepted):
            shown = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
            text = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com."
            raise coded("invalid_api_key", text)

    async def _route(self, request: Request) -> None:
        entry = request.entry
        handler = self._handlers.get(entry.path)
        if handler is None:
            if not await self._strike(request):
                await self._read_only(request)
            return
        if entry.method != "POST":
            raise ApiError(405, f"Not allowed to {entry.method} on {entry.path}.", "method_not_supported")
        try:
            body = orjson.loads(entry.body)
        except orjson.JSONDecodeError:
            raise bad("We could not parse the JSON body of your request. The API expects a JSON payload.") from None
        if not isinstance(body, dict):
            raise bad("We could not parse the JSON body of your request: it is not an object.")
        request.body = body
        entry.stream = body.get("stream") is True
        entry.model = str(body.get("model", "")) or (_DEFAULT_MODERATION if entry.path == "/v1/moderations" else "")
        if not entry.model:
            raise bad("you must provide a model parameter", "model", "missing_required_parameter")
        model = self._model(entry.model)
        if model.kind != _PATHS[entry.path]:
            raise bad(f"The model '{model.name}' cannot be used with {entry.path}.", "model", "unsupported_model")
        request.model = model
        try:
            self.simulator.limits.take_request(request.key, model)
        finally:
            self._limit_headers(request)
        if not await self._strike(request):
            await handler(request)

    def _model(self, name: str) -> Model:
        for model in self.simulator.models():
            if model.name == name:
                return model
        if name in MODELS:
            text = f"The model `{name}` has been shut down on {MODELS[name].shutdown_date}. See the deprecations page."
            raise coded("model_not_found", text)
        raise coded("model_not_found", f"The model `{name}` does not exist or you do not have access to it.")

    def _limit_headers(self, request: Request) -> None:
        request.wire.headers |= self.simulator.limits.headers(request.key, request.model)

    def _admit(self, request: Request, tokens: int) -> None:
        try:
            self.simulator.limits.take_tokens(request.key, request.model, tokens)
        finally:
            self._limit_headers(request)

    async def _strike(self, request: Request) -> bool:
        """Apply the scripted fault that matches; True when the request is answered (or broken) by it."""
        entry = request.entry
        fault = request.fault = self.simulator.faults.take(entry.path, entry.model, request.key)
        if fault is None:
            return False
        entry.fault = fault.kind
        if fault.kind == "status":
            raise fault.error()
        if fault.kind == "html":
            await request.wire.html(fault.status or 200)
            return True
        if fault.kind == "disconnect":
            request.wire.disconnect()
            return True
        if fault.kind == "delay":
            await self.simulator.clock.sleep(fault.seconds)
        return False

    async def _reply(self, request: Request, value: dict[str, Any]) -> None:
        fault = request.fault
        if fault is not None and fault.kind in ("stall", "cut", "malformed"):
            await request.wire.broken_json(value, fault)
        elif fault is not None and fault.kind == "error_event":
            raise fault.error()
        else:
            if fault is not None and fault.kind in ("slow_first_token", "drip"):
                await self.simulator.clock.sleep(fault.seconds)
            await request.wire.json(value)

    async def _responses(self, request: Request) -> None:
        body = request.body
        ask = responses.read(body, request.model, self._earlier(request))
        self._admit(request, ask.charged_tokens)
        cached = self._look(request, ask)
        given = answer(ask)
        finished = response_object.render(ask, given, cached)
        self._note(request, cached, given.output_tokens)
        if body.get("store") is not False:
            self.simulator.store(request.key, finished, [*ask.turns, Turn("assistant", given.text)])
        times = self._pace(ask, cached, given.reasoning_tokens)
        if ask.streams:
            stream = response_object.events(finished, given, _obfuscates(body))
            await request.wire.stream(stream, times, request.fault)
            return
        await times.wait(len(given.pieces))
        await self._reply(request, finished)

    def _earlier(self, request: Request) -> list[Turn]:
        name = request.body.get("previous_response_id")
        if not isinstance(name, str):
            return []
        stored = self.simulator.stored.get(name)
        if stored is None or stored.key != request.key:
            text = f"Previous response with id '{name}' not found."
            raise bad(text, "previous_response_id", "previous_response_not_found")
        return stored.turns

    async def _chat(self, request: Request) -> None:
        ask = chat.read(request.body, request.model)
        self._admit(request, ask.charged_tokens)
        cached = self._look(request, ask)
        given = [answer(ask, index) for index in range(ask.choices)]
        self._note(request, cached, sum(one.output_tokens for one in given))
        times = self._pace(ask, cached, max(one.reasoning_tokens for one in given))
        if ask.streams:
            stream = chat.events(ask, given, cached, _obfuscates(request.body))
            await request.wire.stream(stream, times, request.fault)
            return
        await times.wait(max(len(one.pieces) for one in given))
        await self._reply(request, chat.render(ask, given, cached))

    async def _embeddings(self, request: Request) -> None:
        items = embeddings.read(request.body, request.model)
        tokens = sum(map(embeddings.tokens_of, items))
        await self._computed(request, tokens, embeddings.render(request.body, request.model, items))

    async def _moderations(self, request: Request) -> None:
        items = moderations.read(request.body)
        tokens = sum(len(text) for text, _ in items) // 4 + 1
        await self._computed(request, tokens, moderations.render(request.model, items))

    async def _computed(self, request: Request, tokens: int, value: dict[str, Any]) -> None:
        """Answer with something that is not written token by token."""
        self._admit(request, tokens)
        cached = Cached(tokens)
        self._note(request, cached, 0)
        options = self.simulator.options
        await pace(request.model, cached, 0, options, str(tokens)).wait(1)
        await self._reply(request, value)

    def _look(self, request: Request, ask: Ask) -> Cached:
        return self.simulator.prompt_cache.look(request.key, ask)

    def _note(self, request: Request, cached: Cached, output_tokens: int) -> None:
        entry = request.entry
        entry.input_tokens, entry.cached_tokens = cached.input_tokens, cached.read_tokens
        entry.output_tokens = output_tokens

    def _pace(self, ask: Ask, cached: Cached, reasoning_tokens: int) -> Pace:
        options = self.simulator.options
        return pace(ask.model, cached, reasoning_tokens, options, ask.prompt)

    async def _read_only(self, request: Request) -> None:
        """Models and stored responses."""
        method, path = request.entry.method, request.entry.path
        collection, _, name = path.removeprefix("/v1/").partition("/")
        if collection == "models" and method == "GET":
            if name:
                await request.wire.json(_model_object(self._model(name)))
            else:
                data = [_model_object(model) for model in self.simulator.models()]
                await request.wire.json({"object": "list", "data": data})
        elif collection == "responses" and method in ("GET", "DELETE") and "/" not in name:
            await request.wire.json(self._stored(name, request.key, method))
        else:
            raise bad_path(method, path)

    def _stored(self, name: str, key: str, method: str) -> dict[str, Any]:
        stored = self.simulator.stored.get(name)
        if stored is None or stored.key != key:
            raise ApiError(404, f"Response with id '{name}' not found.", None)
        if method == "DELETE":
            del self.simulator.stored[name]
            return {"id": name, "object": "response", "deleted": True}
        return stored.response


def bad_path(method: str, path: str) -> ApiError:
    """The 404 for a path that the API does not have."""
    return ApiError(404, f"Invalid URL ({method} {path})", None)


def _obfuscates(body: dict[str, Any]) -> bool:
    return (body.get("stream_options") or {}).get("include_obfuscation") is not False


def _model_object(model: Model) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": model.name, "object": "model", "created": model.created, "owned_by": "openai"}
    return shown | {"shutdown_date": model.shutdown_date}
