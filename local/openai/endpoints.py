"""What each path does with an authenticated request."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from local.openai import chat, embeddings, moderations, response_object, responses
from local.openai.answers import answer
from local.openai.ask import Ask, Turn, count_tokens
from local.openai.errors import ApiError, bad, coded
from local.openai.latency import Pace, pace
from local.openai.models import MODELS, Model
from local.openai.prompt_cache import Cached
from local.openai.request import Request
from local.openai.state import Simulator


class Endpoint(NamedTuple):
    """A path that takes a JSON body: the kind of model it needs, and its handler."""

    kind: str
    handle: Callable[[Request], Awaitable[None]]


def find_model(simulator: Simulator, name: str) -> Model:
    """The model of that name; 404 `model_not_found` when there is none or it is shut down."""
    for model in simulator.models():
        if model.name == name:
            return model
    if name in MODELS:
        text = f"The model `{name}` was shut down on {MODELS[name].shutdown_date}. See the deprecations page."
        raise coded("model_not_found", text)
    raise coded("model_not_found", f"The model `{name}` does not exist or you do not have access to it.")


async def _responses(request: Request) -> None:
    ask = responses.read(request.body, request.model, _earlier(request))
    request.admit_tokens(ask.charged_tokens)
    cached = request.simulator.prompt_cache.look(request.key, ask)
    given = answer(ask)
    finished = response_object.render(ask, given, cached)
    request.note(cached, given.output_tokens, given.reasoning_tokens, ask.service_tier)
    if request.body.get("store") is not False:
        request.simulator.store(request.key, finished, [*ask.turns, Turn("assistant", given.text)])
    times = _pace(request, ask, cached, given.reasoning_tokens)
    if ask.streams:
        await request.wire.stream(response_object.events(finished, given, ask.obfuscates), times, request.fault)
        return
    await times.wait(len(given.pieces))
    await request.reply(finished)


def _earlier(request: Request) -> list[Turn]:
    name = request.body.get("previous_response_id")
    if not isinstance(name, str):
        return []
    stored = request.simulator.stored.get(name)
    if stored is None or stored.key != request.key:
        text = f"Previous response with id '{name}' not found."
        raise bad(text, "previous_response_id", "previous_response_not_found")
    return stored.turns


async def _chat(request: Request) -> None:
    ask = chat.read(request.body, request.model)
    request.admit_tokens(ask.charged_tokens)
    cached = request.simulator.prompt_cache.look(request.key, ask)
    given = [answer(ask, index) for index in range(ask.choices)]
    reasoning = sum(one.reasoning_tokens for one in given)
    request.note(cached, sum(one.output_tokens for one in given), reasoning, ask.service_tier)
    times = _pace(request, ask, cached, max(one.reasoning_tokens for one in given))
    if ask.streams:
        await request.wire.stream(chat.events(ask, given, cached), times, request.fault)
        return
    await times.wait(max(len(one.pieces) for one in given))
    await request.reply(chat.render(ask, given, cached))


def _pace(request: Request, ask: Ask, cached: Cached, reasoning_tokens: int) -> Pace:
    return pace(ask.model, cached, reasoning_tokens, request.simulator.options, ask.prompt)


async def _embeddings(request: Request) -> None:
    items = embeddings.read(request.body, request.model)
    tokens = sum(map(embeddings.tokens_of, items))
    await _computed(request, tokens, embeddings.render(request.body, request.model, items))


async def _moderations(request: Request) -> None:
    items = moderations.read(request.body)
    tokens = sum(count_tokens(text) for text, _ in items)
    await _computed(request, tokens, moderations.render(request.model, items))


async def _computed(request: Request, tokens: int, value: dict[str, Any]) -> None:
    """Answer with something that is not written token by token."""
    request.admit_tokens(tokens)
    cached = Cached(tokens)
    request.note(cached, 0)
    await pace(request.model, cached, 0, request.simulator.options, str(tokens)).wait(1)
    await request.reply(value)


ENDPOINTS = {
    "/v1/responses": Endpoint("text", _responses),
    "/v1/chat/completions": Endpoint("text", _chat),
    "/v1/embeddings": Endpoint("embedding", _embeddings),
    "/v1/moderations": Endpoint("moderation", _moderations),
}


async def without_body(request: Request) -> None:
    """Models and stored responses; 404 for every other path."""
    method, path = request.entry.method, request.entry.path
    collection, _, name = path.removeprefix("/v1/").partition("/")
    if collection == "models" and method == "GET":
        if name:
            await request.reply(_model_object(find_model(request.simulator, name)))
        else:
            data = [_model_object(model) for model in request.simulator.models()]
            await request.reply({"object": "list", "data": data})
    elif collection == "responses" and method in ("GET", "DELETE") and name and "/" not in name:
        await request.reply(_stored(request, name))
    else:
        raise ApiError(404, f"Invalid URL ({method} {path})")


def _stored(request: Request, name: str) -> dict[str, Any]:
    stored = request.simulator.stored.get(name)
    if stored is None or stored.key != request.key:
        raise ApiError(404, f"Response with id '{name}' not found.")
    if request.entry.method == "DELETE":
        del request.simulator.stored[name]
        return {"id": name, "object": "response", "deleted": True}
    return stored.response


def _model_object(model: Model) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": model.name, "object": "model", "created": model.created, "owned_by": "openai"}
    return shown | {"shutdown_date": model.shutdown_date}
